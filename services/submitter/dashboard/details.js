/** The details of a job, which only operators see. */

import { parseExactly } from "/assets/json.js";

/** The id of a job, as URLs and answers have it. */
export const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

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
