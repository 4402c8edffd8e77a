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
  const parse = (text) => withJsonTexts(text, ["payload", "checkpoint"], { indent: 2 });
  return api.live(`/live/jobs/${id}/details`, {}, { parse });
}

/**
 * Parse an answer in which some values stay JSON texts, with their numbers as they were written.
 *
 * @param {string} text
 * @param {string[]} names of those values
 * @param {{indent?: number, jobsOf?: (answer: object) => object[]}} [options] `jobsOf` returns the objects that have them
 */
export function withJsonTexts(text, names, { indent, jobsOf = (answer) => [answer] } = {}) {
  const { value, stringify } = parseExactly(text);
  const answer = JSON.parse(text);
  const exact = jobsOf(value);
  jobsOf(answer).forEach((job, index) => names.forEach((name) => (job[name] = stringify(exact[index][name], indent))));
  return answer;
}
