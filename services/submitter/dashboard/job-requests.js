/**
 * The requests of actions on one job, and the reasons why an action was not carried out.
 *
 * An action is for a job as the operator has seen it. If the job was run again meanwhile, by another operator or another
 * request, nothing is done, and the error has the code `changed`.
 */

import { ApiError } from "/assets/api.js";

const SHARED_S = 86_400; // the longest that is allowed
const RUNS_AGAIN = "It was already run again";
const NO_RECORD = "It has no record any more, because its time is over.";
const REASONS = {
  redrive: {
    changed: RUNS_AGAIN,
    not_ended: RUNS_AGAIN,
    unknown: NO_RECORD,
    payload_not_kept: "Its payload was not kept.",
    unreadable: "What was kept of it cannot be read.",
  },
  resubmit: { unknown: NO_RECORD, unreadable: "What was kept of it cannot be read." },
  cancel: { changed: `${RUNS_AGAIN}, so look at it first`, ended: "It has ended before.", unknown: NO_RECORD },
  erase: { changed: `${RUNS_AGAIN}, so look at it first`, not_ended: "It has not ended. Cancel it first.", unknown: NO_RECORD },
  discard: { unknown: "It is no longer on the poison queue: it was redriven or discarded." },
  share: {},
};
const CHANGED = new Set(["changed", "not_ended"]);
const UNENDED = ["queued", "running", "retrying"];
const STOPPED = ["failed", "cancelled"];
const RESERVED = "headway."; // the start of the kinds that only Headway itself submits

/** Return whether only Headway itself submits jobs of a kind. */
export function isReserved(kind) {
  return Boolean(kind?.startsWith(RESERVED));
}

/** Return whether an action was not carried out because the job is not as the operator has seen it. */
export function hasChanged(error) {
  return CHANGED.has(error.code);
}

/**
 * Return why an action was not carried out, as a sentence about "it".
 *
 * @param {keyof REASONS} action
 * @param {ApiError} error
 * @param {string} [by] the operator who was faster, "" if that is not known
 */
export function reasonText(action, error, by = "") {
  const reason = REASONS[action][error.code] ?? error.message;
  if (!reason.startsWith(RUNS_AGAIN)) return reason;
  return `${RUNS_AGAIN}${by && ` by ${by}`}${reason.slice(RUNS_AGAIN.length)}.`;
}

/** Return whether an action may apply to a job in this state; the server decides. */
export function applies(action, { finished_at: finished, cancel_requested: isCancelling }) {
  return action === "cancel" ? !finished && !isCancelling : Boolean(finished);
}

/**
 * Return the action of `POST /bulk` for all jobs of a filter; null if the filter has jobs to which it does not apply.
 *
 * @param {"runAgain" | "cancel"} action
 * @param {{status?: string[]}} filter
 */
export function bulkActionOf(action, { status = [] }) {
  const areAll = (statuses) => status.every((each) => statuses.includes(each));
  if (action === "cancel") return areAll(UNENDED) ? "cancel" : null;
  if (status.length === 0) return null;
  if (areAll(STOPPED)) return "redrive";
  return areAll(["succeeded"]) ? "rerun" : null;
}

/**
 * Cancel a job; return its snapshot.
 *
 * @throws {ApiError} `ended` if the job has ended
 */
export async function cancelJob(api, job) {
  await checkGeneration(api, job);
  const snapshot = await api.live(`/live/jobs/${job.id}/cancel`, {}, { method: "POST" });
  if (snapshot.finished_at && snapshot.status !== "cancelled") throw conflict("ended", "The job has ended.");
  return snapshot;
}

/** Run an ended job again under the same id, unless its generation is another one by now; null stands for any. */
export function redriveJob(api, { id, generation = null }) {
  return api.submitter(`/jobs/${id}/redrive`, { method: "POST", body: generation === null ? {} : { generation } });
}

/**
 * Submit a job again as a new job; return its receipt.
 *
 * @param {string} key the same one for a repeated request
 * @param {string} [payload] another payload, as JSON text: a number stays as it is written
 */
export function rerunJob(api, { id }, key, payload) {
  const body = payload === undefined ? {} : `{"payload":${payload}}`;
  return api.submitter(`/jobs/${id}/rerun`, { method: "POST", body, headers: { "Idempotency-Key": key } });
}

/** Run a job again: a job that has succeeded as a new one, any other under its id. */
export function runJobAgain(api, job, key) {
  return job.status === "succeeded" ? rerunJob(api, job, key) : redriveJob(api, job);
}

/** Remove what an ended job has left. */
export async function eraseJob(api, job) {
  await checkGeneration(api, job);
  await api.submitter(`/jobs/${job.id}`, { method: "DELETE" });
}

/** Remove a job from the poison queue without running it. */
export async function discardJob(api, { id }) {
  await api.submitter(`/poison/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Create a link that can watch a job and no more, for a day. */
export async function shareJob(api, { id }) {
  const body = { job: id, scope: "watch", ttl_s: SHARED_S };
  const { token } = await api.submitter("/tokens", { method: "POST", body });
  return `${location.origin}/jobs/${id}#${token}`;
}

/** Throw an ApiError, `changed`, if a job was run again: these requests have no generation of their own. */
async function checkGeneration(api, { id, generation }) {
  const snapshot = await api.live(`/live/jobs/${id}`);
  if (snapshot.generation !== generation) throw conflict("changed", "The job was run again.");
}

function conflict(code, message) {
  return new ApiError(message, { status: 409, code });
}
