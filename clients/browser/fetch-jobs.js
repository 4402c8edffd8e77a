/** Request one page of a list of jobs over HTTP. */

import { parseMessage } from "./json.js";

const TIMEOUT_MS = 10_000;

/** Why a list cannot be shown. The code is `unavailable` if the same request may succeed later. */
class ListError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * Return a page of a list.
 *
 * @param {string} url the notifier's public base URL
 * @param {string} token of the list
 * @param {object} query the parameters; an array is one that is repeated
 * @returns {Promise<{jobs: object[], next: ?string, complete: boolean, now: string}>}
 * @throws {ListError}
 */
export async function fetchJobs(url, token, query) {
  const headers = { Authorization: `Bearer ${token}` };
  const signal = AbortSignal.timeout?.(TIMEOUT_MS); // browsers before 2022 have none
  const parameters = Object.entries(query).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
  try {
    const response = await fetch(`${url}/live/jobs?${new URLSearchParams(parameters)}`, { headers, signal, cache: "no-store" });
    const page = parseMessage(await response.text());
    if (response.ok) return { ...page, jobs: page.jobs.map((each) => each.job ?? each) };
    throw new ListError(codeOf(response.status, page.code), page.detail);
  } catch (error) {
    throw error instanceof ListError ? error : new ListError("unavailable", "The server did not answer; try again.");
  }
}

function codeOf(status, code) {
  if (status === 422) return "invalid";
  return status < 429 ? code : "unavailable";
}
