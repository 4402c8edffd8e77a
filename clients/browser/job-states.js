/** The state of a job as an element shows it. */

import { errorText, isCancelling, isStalled, isWorkerLost, percent } from "./format.js";

/**
 * Return the names of the states that styles can select, such as `failed`.
 *
 * @param {?object} snapshot
 * @param {object} shown
 * @param {string} shown.error the error that is shown, or ""
 * @param {string} shown.connection the state of the connection
 * @param {number} shown.confirmedUntil the time until which the snapshot is known to be current, in ms
 * @returns {string[]} first the status, or `waiting` before the first snapshot
 */
export function jobStates(snapshot, { error, connection, confirmedUntil }) {
  const isRunning = snapshot?.status === "running";
  const additional = {
    error,
    reconnecting: connection === "reconnecting",
    stale: snapshot && connection !== "live",
    indeterminate: isRunning && percent(snapshot) === null,
    lost: isRunning && isWorkerLost(snapshot, confirmedUntil),
    stalled: isRunning && isStalled(snapshot, confirmedUntil),
  };
  return [snapshot?.status ?? "waiting", ...Object.keys(additional).filter((name) => additional[name])];
}

/** Return the error to show. Once the job has finished, its own error takes precedence over errors of the watch. */
export function shownError(snapshot, watchError) {
  if (watchError && !snapshot?.finished_at) return watchError.message;
  return errorText(snapshot?.error);
}

/**
 * Return the state of the cancel button, as `View.render` takes it.
 *
 * @param {?object} snapshot
 * @param {boolean} canCancel whether the token allows it
 * @param {boolean} isRequested whether the user has clicked it
 */
export function cancelState(snapshot, canCancel, isRequested) {
  if (!canCancel) return "";
  if (!snapshot || snapshot.finished_at) return "reserved";
  return isRequested || isCancelling(snapshot) ? "requested" : "enabled";
}
