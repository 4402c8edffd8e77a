/** The texts of a job in a list: one line beside its bar, its numbers, and its times. */

import { amountText, durationText, nextStepText, percentText } from "/assets/format.js";

const MINUTE_MS = 60_000;
const MAX_PRECISE_MS = 10 * MINUTE_MS; // a longer duration is shown without its seconds

/**
 * Return the line under the bar of a job: how far it is, what it waits for, when it starts, or where it stopped.
 *
 * @param {object} snapshot
 * @param {number} now the server's time in ms
 * @param {number} confirmedUntil the time until which the snapshot is known to be current, in ms
 */
export function lineText(snapshot, now, confirmedUntil) {
  const { status, progress, started_at: started, due_at: due } = snapshot;
  if (status === "succeeded") return doneText(progress);
  if (status === "failed" || status === "cancelled") return stoppedText(snapshot);
  if (status === "retrying") return `Next attempt ${dueText(due, now)}`;
  if (status === "queued" && Date.parse(due) > now) return `Starts ${dueText(due, now)}`;
  if (status === "queued") return started ? "Released, waiting for a worker" : "Waiting for a worker";
  const notice = nextStepText(snapshot, now, confirmedUntil);
  if (notice) return notice.replace("Alive, but has", "Has"); // a row has little room
  return [amountText(snapshot), progress?.message].filter(Boolean).join(" · ");
}

/** Return when a time is, such as "in 40 s". */
function dueText(time, now) {
  const ms = Date.parse(time) - now;
  return ms > 0 ? `in ${shortDuration(Math.ceil(ms / 1000) * 1000)}` : "soon";
}

/** Return the amount of a job that has succeeded, such as "400 files": its last report may have been about less. */
function doneText(progress) {
  if (!progress || progress.unit === "%") return "";
  const { current, total, unit } = progress;
  return amountText({ status: "running", progress: { current: total ?? current, total: null, unit } });
}

function stoppedText(snapshot) {
  if (!snapshot.started_at) return "Never started";
  const amount = amountText(snapshot) || percentText(snapshot);
  return amount ? `Stopped at ${amount}` : "";
}

/** Return the percentage to show beside the line of a job that advances; the bar of another one shows enough. */
export function shownPercent(snapshot, tone) {
  return tone === "running" ? percentText(snapshot) : "";
}

/** Return the attempt of a job, such as "2 of 5"; "–" before the first one. */
export function attemptCount({ status, attempt, max_attempts: maxAttempts, started_at: started }) {
  if (!started && attempt < 2) return "–";
  return attempt > 1 || status === "failed" || status === "retrying" ? `${attempt.toLocaleString()} of ${maxAttempts.toLocaleString()}` : attempt.toLocaleString();
}

/** Return since when a job has waited for its first attempt: since it was run again, or its submission; undefined if unknown. */
export function waitingSince({ generation, submitted_at: submitted, redriven_at: redriven }) {
  return redriven ?? (generation ? undefined : submitted);
}

/** Return the earlier attempts of a job since it was last run again; then attempts count from 1 again. */
function earlierAttempts({ earlier_attempts: earlier = [], redriven_at: redriven }) {
  return earlier.filter(({ started_at: started }) => !(started < redriven));
}

/** Return how long a job waited for its first attempt, or has waited; null or NaN if that is unknown, or it is not due yet. */
export function waitMs(snapshot, now) {
  const { attempt, due_at: due, started_at: started, finished_at: finished } = snapshot;
  const first = attempt === 1 ? started : earlierAttempts(snapshot).find((each) => each.attempt === 1)?.started_at;
  if (!first && (attempt > 1 || started || Date.parse(due) > now)) return null;
  return Math.max(0, (Date.parse(first ?? finished) || now) - Date.parse(waitingSince(snapshot)));
}

/** Return for how long attempts of a job have run in all since it was last run again; null if none has started. */
export function workMs(snapshot, now) {
  const { status, started_at: started, updated_at: updated, finished_at: finished } = snapshot;
  const earlier = earlierAttempts(snapshot);
  if (!started && !earlier.length) return null;
  const past = earlier.map(({ started_at: start, ended_at: end }) => Date.parse(end) - Date.parse(start) || 0);
  const ends = { running: now, queued: Date.parse(started), retrying: Date.parse(updated) };
  const current = (Date.parse(finished) || ends[status]) - Date.parse(started) || 0;
  return past.reduce((sum, each) => sum + each, Math.max(0, current));
}

/** Return a duration with two units, such as "2 min 10 s", "19 min" or "3 h 12 min"; "–" for null and NaN. */
export function shortDuration(ms) {
  if (ms === null || Number.isNaN(ms)) return "–";
  return durationText(ms < MAX_PRECISE_MS ? ms : ms - (ms % MINUTE_MS), 2);
}

/** Return whether the error of a job is not its true one, which only operators see. */
export function hidesError({ error }) {
  return error?.type === "InternalError";
}
