/** A job in words: what the element and the job's page say of a snapshot. */

const STATUS = {
  queued: "Queued",
  running: "Running",
  retrying: "Retrying",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};
const HEARTBEAT_MS = 1000; // how late a worker may tell of a lease that it has renewed
const COUNTED_S = 100; // what is further away is told as a time of day

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** "Running" */
export function status(snapshot) {
  return cancelling(snapshot) ? "Cancelling" : STATUS[snapshot.status];
}

/** Tell whether somebody has asked to cancel the job and it has not ended yet. */
export function cancelling({ cancel_requested: asked, finished_at: finished }) {
  return asked && !finished;
}

/** How far the job is, 0 to 100; null when nobody knows. */
export function percent({ status, progress }) {
  return status === "succeeded" ? 100 : (progress?.percent ?? null);
}

/** "40 %", rounded down: 100 is for what is done; "" when nobody knows */
export function figure(snapshot) {
  const share = percent(snapshot);
  return share === null ? "" : `${Math.floor(share)} %`;
}

/** "4 of 10 files", "4 files"; nothing where the figure says it already, in percent */
export function amount({ progress }) {
  if (!progress) return "";
  const { current, total, unit } = progress;
  if (unit === "%" && total === 100) return "";
  const whole = total === null ? "" : `of ${number.format(total)}`;
  return [number.format(current), whole, unit].filter(Boolean).join(" ");
}

/** What comes next: "starts at 14:05:00", "next attempt in 12 s", "Worker lost, next attempt in 12 s"; or "" */
export function outlook(snapshot, now) {
  const { status, due_at: due, lease_until: lease, attempt, max_attempts: attempts } = snapshot;
  if (status === "queued" && Date.parse(due) > now) return `starts ${when(due, now)}`;
  if (status === "retrying") return `next attempt ${when(due, now)}`;
  if (!workerLost(snapshot, now)) return "";
  return `Worker lost, ${attempt < attempts ? `next attempt ${when(lease, now)}` : "no attempt left"}`;
}

/**
 * Tell whether a running job's worker is gone. A living one renews its lease while half of it is left, and each renewal
 * is a snapshot, so the job is late once less than a third is left of what its newest snapshot had.
 */
export function workerLost({ status, lease_until: until, updated_at: updated }, now) {
  if (status !== "running" || !until) return false;
  const end = Date.parse(until);
  return now > end - (end - Date.parse(updated)) / 3 + HEARTBEAT_MS;
}

/** "in 12 s", "at 14:05:00" in the reader's own time */
function when(time, now) {
  const moment = new Date(time ?? now);
  const seconds = Math.ceil((moment - now) / 1000);
  if (seconds <= 0) return "soon";
  if (seconds < COUNTED_S) return `in ${seconds} s`;
  const today = moment.toDateString() === new Date(now).toDateString();
  const style = today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" };
  return `at ${moment.toLocaleString([], style)}`;
}
