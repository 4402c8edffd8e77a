/** The texts that elements and pages show for a snapshot: in English, with numbers and times in the reader's locale. */

import { indentJson } from "./json.js";

const STATUS_TEXTS = {
  queued: "Queued",
  running: "Running",
  retrying: "Retrying",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};
const OUTCOME_TEXTS = { released: "released by its worker", lost: "worker lost" }; // the others are words for users
const HEARTBEAT_DELAY_MS = 1000; // a heartbeat may arrive this late
const STALL_MS = 120_000; // without progress
const MAX_COUNTDOWN_S = 100; // a time further away is shown as a time of day
const MIN_DECIMAL_MS = 100; // a shorter duration is shown in milliseconds
const MAX_DECIMAL_MS = 10_000; // a longer duration is shown without a decimal

const DURATION_UNITS = Object.entries({ d: 86_400, h: 3600, min: 60, s: 1 }); // in seconds
const MAX_INCOMPLETE_PERCENT = 99.99;
const TINY = 0.1; // a smaller number is shown with significant digits
const MIN_PLAIN = 1e-6; // a smaller number is shown with an exponent
const MAX_PLAIN = 1e21; // a larger number with an exponent is shown as it is

const numberFormat = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const tinyNumberFormat = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 2 });

/** Return a text without the marks that change its direction: with these, a name could look like another one. */
export function plainText(text) {
  return text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "");
}

/** Return what people call a job: its name, or its kind. */
export function nameText({ name, kind }) {
  return plainText(name ?? "") || kind;
}

/** Return the beginning of an id that people use for it. */
export function shortId(id) {
  return id.slice(0, 8);
}

/** Return the status as text, such as "Running". */
export function statusText(snapshot) {
  return isCancelling(snapshot) ? "Cancelling" : STATUS_TEXTS[snapshot.status];
}

/** Return whether cancellation was requested and the job has not finished yet. */
export function isCancelling({ cancel_requested: requested, finished_at: finished }) {
  return requested && !finished;
}

/** Return the progress from 0 to 100, or null if it is unknown. It is 100 only if all of the work is done. */
export function percent({ status, progress, exact }) {
  if (status === "succeeded") return 100;
  const value = progress?.percent ?? null;
  if (value === null || value < 100) return value;
  const { current, total } = progress; // the server rounds the percentage, and JavaScript rounds large numbers
  const isSame = current === total && numberText(current, exact?.current) === numberText(total, exact?.total);
  return isSame || current > total ? 100 : MAX_INCOMPLETE_PERCENT;
}

/** Return the progress as text, such as "40 %", or "" if it is unknown. Rounded down, so that 100 % means complete. */
export function percentText(snapshot) {
  const value = percent(snapshot);
  return value === null ? "" : `${numberFormat.format(Math.floor(value))} %`;
}

/**
 * Return the amount done, such as "4 of 10 files" or "4 files"; "" if `percentText` already says the same, and after
 * success: the last amount that a job reports may be less than the total.
 */
export function amountText({ status, progress, exact }) {
  if (!progress || status === "succeeded") return "";
  const { current, total, unit } = progress;
  if (unit === "%" && total === 100) return "";
  const ofTotal = total === null ? "" : `of ${numberText(total, exact?.total)}`;
  return [numberText(current, exact?.current), ofTotal, unit].filter(Boolean).join(" ");
}

/** Return the message of the progress. After success it is outdated, and after another end it is the last one. */
export function messageText({ status, progress, finished_at: finished }) {
  if (!progress?.message || status === "succeeded") return "";
  return finished ? `Last message: ${progress.message}` : progress.message;
}

/** Return the result as indented JSON with its original numbers, or "" if there is none. */
export function resultText({ result, exact }) {
  if (result === null) return "";
  return exact?.result ? indentJson(exact.result) : JSON.stringify(result, null, 2);
}

/**
 * Return what happens next, such as "starts at 14:05:00", or why nothing happens, such as "Worker lost, no attempt left".
 *
 * @param {object} snapshot
 * @param {number} now the server's time in ms
 * @param {number} confirmedUntil the time until which the snapshot is known to be current, in ms; if the connection is
 *   lost after it, missing reports are not the worker's fault
 * @param {?{before: ?number}} position the job's position in the queue, as the server answers it
 * @returns {string} "" if nothing is due
 */
export function nextStepText(snapshot, now, confirmedUntil = now, position = null) {
  const { status, due_at: due, lease_until: lease, attempt, max_attempts: maxAttempts } = snapshot;
  if (status === "queued" && Date.parse(due) > now) return `starts ${timeText(due, now)}`;
  if (status === "queued") return waitingText(snapshot, now, position);
  if (status === "retrying") return `next attempt ${timeText(due, now)}`;
  if (isStalled(snapshot, confirmedUntil)) return stalledText(snapshot, confirmedUntil);
  if (!isWorkerLost(snapshot, confirmedUntil)) return "";
  return `Worker lost, ${attempt < maxAttempts ? `next attempt ${timeText(lease, now)}` : "no attempt left"}`;
}

/** Return whether a job is on the queue and due. The record must exist: only then the job has a position. */
export function isWaiting({ status, version, due_at: due }, now) {
  return status === "queued" && version > 0 && !(Date.parse(due) > now);
}

/**
 * Return why a queued job has not started, such as "About 40 jobs before this one · submitted 1 h ago".
 *
 * A snapshot of version 0 comes from the token: the server has no record, so it does not know whether the job waits.
 */
function waitingText({ version, started_at: started, submitted_at: submitted, redriven_at: redriven }, now, position) {
  const text = positionText(position);
  if (started) return text; // a worker has released it
  const reason = version ? "Waiting for a worker" : "No worker has reported yet";
  return `${text || reason} · ${redriven ? "run again" : "submitted"} ${ageText(redriven ?? submitted, now)}`;
}

/** Return how many jobs wait before a queued one, "" if the number is unknown or 0. */
function positionText(position) {
  const count = position?.before;
  return count ? `About ${numberFormat.format(count)} ${count === 1 ? "job" : "jobs"} before this one` : "";
}

/** Return whether a running job has not advanced for long, although its worker is not lost. */
export function isStalled(snapshot, confirmedUntil) {
  const isRunning = snapshot.status === "running" && !isWorkerLost(snapshot, confirmedUntil);
  return isRunning && confirmedUntil - lastAdvance(snapshot) >= STALL_MS;
}

/** Return the status of a job as icons and colors show it: a running job may be `stalled` or `lost`. */
export function toneOf(snapshot, confirmedUntil) {
  if (isWorkerLost(snapshot, confirmedUntil)) return "lost";
  return isStalled(snapshot, confirmedUntil) ? "stalled" : snapshot.status;
}

/** Return for how long a job has not advanced. Only a lease, which its worker renews, shows that it is alive. */
function stalledText(snapshot, confirmedUntil) {
  const { progress, lease_until: lease } = snapshot;
  const missing = progress ? "not advanced" : "reported no progress";
  return `${lease ? "Alive, but has" : "Has"} ${missing} for ${durationText(confirmedUntil - lastAdvance(snapshot))}`;
}

/** Return when a running job last advanced, in ms; NaN if a server of version 0.1 has not recorded it. */
function lastAdvance({ progress, started_at: started, advanced_at: advanced }) {
  if (progress?.current && !advanced) return NaN;
  return Math.max(Date.parse(started), Date.parse(advanced ?? started));
}

/** Return the outcome of an earlier attempt, such as "Attempt 1: failed after 12 s". */
export function attemptText({ attempt, started_at: started, ended_at: ended, outcome }) {
  const duration = started ? ` after ${durationText(Date.parse(ended) - Date.parse(started))}` : "";
  return `Attempt ${attempt}: ${OUTCOME_TEXTS[outcome] ?? outcome}${duration}`;
}

/** Return the type of an error as readers see it: "" for `Fail` and `Retry`, whose message says all, if they have one. */
export function errorName(type, hasMessage) {
  return hasMessage && /^(Fail|Retry)$/.test(type) ? "" : type;
}

/** Return the error of a job in one line, such as "ValueError: no such file"; "" for null. */
export function errorText(error) {
  return error ? [errorName(error.type, error.message), error.message].filter(Boolean).join(": ") : "";
}

/** Return why the page may not show the present state of a job, or "" if it does. The snapshot may be null. */
export function connectionText(connection, snapshot) {
  if (connection === "refused") return ""; // an error explains it
  if (navigator.onLine === false) return "You are offline.";
  if (connection !== "reconnecting") return "";
  return snapshot ? "Reconnecting…" : "The server cannot be reached. Trying again…";
}

/**
 * Return whether the worker of a running job has stopped renewing its lease.
 *
 * A worker renews while at least half of the lease is left, and reports it with its next heartbeat, at most a quarter of
 * the lease later. So the worker counts as lost when less than a fifth is left of the lease in the newest snapshot.
 */
export function isWorkerLost({ status, lease_until: until, updated_at: updated }, now) {
  if (status !== "running" || !until) return false;
  const end = Date.parse(until);
  return now > end - (end - Date.parse(updated)) / 5 + HEARTBEAT_DELAY_MS;
}

/** Return how long ago a time was, such as "5 min ago". */
export function ageText(time, now) {
  const ms = now - Date.parse(time);
  return ms < 1000 ? "just now" : `${durationText(ms)} ago`;
}

/** Return a duration as text, such as "5 min", or "5 min 3 s" with two units, rounded down. */
export function durationText(ms, units = 1) {
  return unitTexts(ms).slice(0, units).join(" ");
}

/** Return a duration as text with more digits, such as "40 ms", "0.2 s", "48 s" or "2 min 10 s", rounded down. */
export function preciseDurationText(ms) {
  if (ms >= 1 && ms < MIN_DECIMAL_MS) return `${numberFormat.format(Math.floor(ms))} ms`;
  if (ms < MAX_DECIMAL_MS) return `${numberFormat.format(Math.floor(Math.max(0, ms) / 100) / 10)} s`;
  return durationText(ms, 2);
}

/** Return the parts of a duration, such as "5 min" and "3 s": the largest unit, and the next one unless it is 0. */
function unitTexts(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const index = DURATION_UNITS.findIndex(([, size]) => seconds >= size);
  if (index < 0) return [`${numberFormat.format(0)} s`];
  const [[unit, size], next] = DURATION_UNITS.slice(index);
  const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
  const text = `${numberFormat.format(Math.floor(seconds / size))} ${unit}`;
  return rest ? [text, `${numberFormat.format(rest)} ${next[0]}`] : [text];
}

/**
 * Return a time in the reader's zone as text, such as "14:05:00", or "Nov 29, 14:05" with the date unless it is the date of
 * `now`, and with the year unless it is the same.
 */
export function timestampText(time, now) {
  const [date, today] = [new Date(time), new Date(now)];
  if (date.toDateString() === today.toDateString()) return date.toLocaleTimeString();
  const year = date.getFullYear() === today.getFullYear() ? undefined : "numeric";
  const dateText = date.toLocaleDateString([], { year, month: "short", day: "numeric" });
  return `${dateText}, ${date.toLocaleTimeString([], { timeStyle: "short" })}`;
}

/** Return a time relative to now, such as "in 12 s", or "at 14:05:00" in the reader's time zone. */
function timeText(time, now) {
  const date = new Date(time ?? now);
  const seconds = Math.ceil((date - now) / 1000);
  if (seconds <= 0) return "soon";
  if (seconds < MAX_COUNTDOWN_S) return `in ${numberFormat.format(seconds)} s`;
  return `at ${timestampText(date, now)}`;
}

/**
 * Return a number as text, such as "1,234.5". Like a percentage, it is rounded down: 99.96 of 100 is not 100.
 *
 * @param {number} number
 * @param {string} [exactText] the original text of a number that JavaScript cannot hold
 */
function numberText(number, exactText) {
  if (/^\d+(\.\d+)?$/.test(exactText)) return numberFormat.format(BigInt(exactText.split(".")[0]));
  if (exactText && number >= MAX_PLAIN) return exactText; // such as 1e400
  if (number > 0 && number < MIN_PLAIN) return String(Number(number.toPrecision(2)));
  if (number > 0 && number < TINY) return tinyNumberFormat.format(number);
  const rounded = Number(number.toFixed(1));
  return numberFormat.format(rounded > number ? (10 * rounded - 1) / 10 : Math.abs(rounded));
}
