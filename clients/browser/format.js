/** The texts that the element and the job page show for a snapshot. */

const STATUS_TEXTS = {
  queued: "Queued",
  running: "Running",
  retrying: "Retrying",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};
const RENEWAL_REPORT_DELAY_MS = 1000; // a worker may report a lease renewal this late
const MAX_COUNTDOWN_S = 100; // a time further away is shown as a time of day

const numberFormat = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** Return the status as text, such as "Running". */
export function statusText(snapshot) {
  return isCancelling(snapshot) ? "Cancelling" : STATUS_TEXTS[snapshot.status];
}

/** Return whether cancellation was requested and the job has not finished yet. */
export function isCancelling({ cancel_requested: requested, finished_at: finished }) {
  return requested && !finished;
}

/** Return the progress from 0 to 100, or null if it is unknown. */
export function percent({ status, progress }) {
  return status === "succeeded" ? 100 : (progress?.percent ?? null);
}

/** Return the progress as text, such as "40 %", or "" if it is unknown. Rounded down, so that 100 % means complete. */
export function percentText(snapshot) {
  const value = percent(snapshot);
  return value === null ? "" : `${Math.floor(value)} %`;
}

/** Return the amount done, such as "4 of 10 files" or "4 files"; "" if `percentText` already says the same. */
export function amountText({ progress }) {
  if (!progress) return "";
  const { current, total, unit } = progress;
  if (unit === "%" && total === 100) return "";
  const ofTotal = total === null ? "" : `of ${numberFormat.format(total)}`;
  return [numberFormat.format(current), ofTotal, unit].filter(Boolean).join(" ");
}

/** Return what happens next, such as "starts at 14:05:00" or "Worker lost, no attempt left"; "" if nothing is due. */
export function nextStepText(snapshot, now) {
  const { status, due_at: due, lease_until: lease, attempt, max_attempts: maxAttempts } = snapshot;
  if (status === "queued" && Date.parse(due) > now) return `starts ${timeText(due, now)}`;
  if (status === "retrying") return `next attempt ${timeText(due, now)}`;
  if (!isWorkerLost(snapshot, now)) return "";
  return `Worker lost, ${attempt < maxAttempts ? `next attempt ${timeText(lease, now)}` : "no attempt left"}`;
}

/**
 * Return whether the worker of a running job has stopped renewing its lease.
 *
 * A worker renews while at least half of the lease is left, and each renewal publishes a snapshot. So the worker counts
 * as lost when less than a third is left of the lease in the newest snapshot.
 */
export function isWorkerLost({ status, lease_until: until, updated_at: updated }, now) {
  if (status !== "running" || !until) return false;
  const end = Date.parse(until);
  return now > end - (end - Date.parse(updated)) / 3 + RENEWAL_REPORT_DELAY_MS;
}

/** Return a time relative to now, such as "in 12 s", or "at 14:05:00" in the user's time zone. */
function timeText(time, now) {
  const date = new Date(time ?? now);
  const seconds = Math.ceil((date - now) / 1000);
  if (seconds <= 0) return "soon";
  if (seconds < MAX_COUNTDOWN_S) return `in ${seconds} s`;
  const today = date.toDateString() === new Date(now).toDateString();
  const style = today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" };
  return `at ${date.toLocaleString([], style)}`;
}
