/** Requests to the submitter, whose failures have messages for users. */

/** Return a new idempotency key: requests with the same one create one job. */
export function newKey() {
  // `crypto.randomUUID` is missing on a page without TLS.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Say that no job was started, unless the answer was lost.
 *
 * @param {Error & {status?: number}} error of the request; without a status the server may have accepted it
 */
export function notStartedText({ status, message }) {
  return `${status ? "No job was started." : "It is not known whether the job was started."} ${message}`;
}

/**
 * Post a value as JSON and return the response's JSON.
 *
 * @throws {Error} the request failed; the message is a sentence for the user. `status` is missing if the answer was lost
 */
export async function postJson(url, value, headers = {}) {
  const body = JSON.stringify(value);
  const options = { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body };
  const response = await fetch(url, options).catch(() => {
    throw new Error(navigator.onLine ? "The server cannot be reached; try again." : "This browser is offline.");
  });
  const answer = await response.json().catch(() => null); // a proxy may answer with a page
  if (response.ok && answer) return answer;
  const message = answer?.detail ?? `The server answered with status ${response.status}; try again.`;
  throw Object.assign(new Error(message), response.ok ? {} : { status: response.status });
}
