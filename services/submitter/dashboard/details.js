/** The details of a job, which only operators see. */

import { parseExactly } from "/assets/json.js";

/**
 * Read the details of a job. `payload` and `checkpoint` are indented JSON texts, in which numbers are as they were
 * written; "null" also stands for what was not kept.
 *
 * @throws {ApiError}
 */
export function readDetails(api, id) {
  return api.live(`/live/jobs/${id}/details`, {}, { parse: parseDetails });
}

function parseDetails(text) {
  const { value, stringify } = parseExactly(text);
  const [payload, checkpoint] = [value.payload, value.checkpoint].map((part) => stringify(part, 2));
  return { ...JSON.parse(text), payload, checkpoint };
}
