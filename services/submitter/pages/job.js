/**
 * The job page. The file is the same for every job; the fragment of the URL is the token of the job to watch.
 *
 * Texts of jobs and workers are shown as text, never as markup.
 */

import {
  amountText,
  isCancelling,
  isWorkerLost,
  nextStepText,
  percent,
  percentText,
  resultText,
  statusText,
} from "/assets/format.js";
import { liveUrl } from "/assets/live-url.js";
import { initSharing } from "/assets/share.js";
import { mayCancel, readClaims } from "/assets/token.js";
import { watchJob } from "/assets/watch.js";

const TITLE_MARKS = { succeeded: "✓", failed: "✗", cancelled: "⊘" };
const PROBLEMS = {
  incomplete: {
    type: "This link is incomplete",
    message: "A job’s link ends with # and a long key, which is missing here. Open the whole link, or start a new job.",
  },
  invalid_token: {
    type: "This link is not valid",
    message: "Its key is damaged or belongs to another job or site. Open the whole link, or start a new job.",
  },
  token_expired: {
    type: "This link has expired",
    message: "A job can be watched for some days after it was started, and that time has passed.",
  },
  refused: {
    type: "The server refuses this page",
    message: "It does not accept connections from this address. Its operator can change that.",
  },
  origin_not_allowed: {
    type: "The server refuses this page",
    message: "This page’s address is not on the list of allowed origins. The server’s operator can change that.",
  },
  forbidden: {
    type: "This link may not cancel the job",
    message: "Its key is for watching only.",
  },
  unavailable: {
    type: "The job could not be cancelled",
    message: "The server’s store is unavailable at the moment. Try again.",
  },
  unknown: {
    type: "The server has lost this job’s record",
    message: "The job may still be running. If it is, the worker’s next report will show it here.",
  },
};
const SLOW_START_MS = 5000; // longer than the fallback from a proxy that blocks WebSockets takes
const MIN_ESTIMATE_PERCENT = 5; // with less progress the remaining time cannot be estimated

const main = document.querySelector("main");
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

let watch;
let snapshot = null;
let problem = null; // why the job cannot be watched, in the format of a job's error
let cancelRequested = false; // whether this page has requested the cancellation
let timer;

function start() {
  const token = location.hash.slice(1);
  const claims = readClaims(token);
  if (!token) return showProblem({ code: "incomplete" });
  if (claims && !location.pathname.toLowerCase().endsWith(`/${claims.sub}`)) return showProblem({ code: "invalid_token" });
  setTimeout(() => {
    if (!snapshot && !problem) setText("status", "The server does not answer yet; still trying…");
  }, SLOW_START_MS);
  watch = watchJob({ url: liveUrl, token, onConnection, onError: showProblem }, (newer) => {
    snapshot = newer;
    problem = null;
    cancelRequested &&= !newer.finished_at;
    render();
  });
  initSharing({ id: watch.id, token });
  if (mayCancel(claims)) element.cancel.addEventListener("click", cancel);
  else element.cancel.remove();
}

function cancel() {
  cancelRequested = true;
  watch.cancel();
  renderCancel();
}

function onConnection(state) {
  element.connection.hidden = state !== "reconnecting";
}

function showProblem({ code, message }) {
  problem = PROBLEMS[code] ?? { type: "This job cannot be watched", message };
  cancelRequested = false;
  render();
}

function render() {
  element.job.hidden = !snapshot;
  if (snapshot) renderJob();
  else setText("status", "No job to show");
  renderError();
}

function renderJob() {
  const { version, kind, attempt, max_attempts: attempts, result, progress } = snapshot;
  Object.assign(main.dataset, { status: snapshot.status, version });
  setText("kind", kind);
  setText("status", statusText(snapshot));
  setText("message", progress?.message);
  setText("attempt", `${attempt} of ${attempts}`);
  element.attempts.hidden = attempt < 2;
  setText("result", resultText(snapshot));
  element.outcome.hidden = result === null;
  renderProgress();
  renderTimes();
  renderCancel();
}

function renderProgress() {
  const share = percent(snapshot);
  const known = percentText(snapshot);
  const running = snapshot.status === "running";
  if (share === null && running) element.bar.removeAttribute("value");
  else element.bar.value = share ?? 0;
  setText("percent", known);
  setText("progress-text", amountText(snapshot));
  const mark = TITLE_MARKS[snapshot.status];
  const label = (running && known) || statusText(snapshot);
  document.title = mark ? `${mark} ${snapshot.kind}` : `${label} · ${snapshot.kind}`;
}

/** Show the times, and update them every second until the job has ended. */
function renderTimes() {
  clearTimeout(timer);
  const now = watch.now();
  const { started_at: started, finished_at: finished } = snapshot;
  const elapsed = started && Math.max(0, (finished ? Date.parse(finished) : now) - Date.parse(started));
  setText("elapsed", started && clock(elapsed));
  setText("remaining", remaining(snapshot, now));
  setText("outlook", nextStepText(snapshot, now));
  main.toggleAttribute("data-lost", isWorkerLost(snapshot, now));
  if (!finished) timer = setTimeout(renderTimes, 1000 - ((elapsed || now) % 1000));
}

function renderCancel() {
  const cancelling = cancelRequested || isCancelling(snapshot);
  element.cancel.disabled = cancelling;
  element.cancel.hidden = !!snapshot.finished_at;
  setText("cancel", cancelling ? "Cancelling…" : "Cancel job");
}

/** Show the job's error, or the problem of watching it. Once the job has ended, only its own error matters. */
function renderError() {
  const error = snapshot?.finished_at ? snapshot.error : (problem ?? snapshot?.error);
  element.error.hidden = !error;
  setText("error-type", error?.type);
  setText("error-message", error?.message);
}

/** Set a text if it has changed: screen readers would announce an unchanged text again. */
function setText(id, text) {
  if (element[id].textContent !== (text ?? "")) element[id].textContent = text ?? "";
}

/** Return the estimated remaining time, such as "about 0:18", or "": too early, in a retry, or if a report is overdue. */
function remaining({ status, attempt, progress, started_at: started, updated_at: updated }, now) {
  const percent = progress?.percent ?? 0;
  if (status !== "running" || attempt > 1 || percent < MIN_ESTIMATE_PERCENT) return "";
  const pace = (Date.parse(updated) - Date.parse(started)) / percent;
  const remainingMs = pace * (100 - percent) - (now - Date.parse(updated));
  return remainingMs > 0 ? `about ${clock(remainingMs + 999)}` : "";
}

/** Return a duration, such as "0:18" or "1:02:03". */
function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const pad = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${pad(minutes)}:${pad(seconds % 60)}` : `${minutes}:${pad(seconds % 60)}`;
}

addEventListener("hashchange", () => location.reload()); // another link was pasted into the address bar
start();
