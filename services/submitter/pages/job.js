/**
 * The job's page: the same file for every job, told by the token behind the `#` which one to watch.
 *
 * Whatever a job or its worker says is shown as text, never as markup.
 */

import {
  amountText,
  isCancelling,
  isWorkerLost,
  nextStepText,
  percent,
  percentText,
  statusText,
} from "/assets/format.js";
import { liveUrl } from "/assets/live-url.js";
import { offer } from "/assets/share.js";
import { mayCancel, readClaims } from "/assets/token.js";
import { watchJob } from "/assets/watch.js";

const MARKS = { succeeded: "✓", failed: "✗", cancelled: "⊘" };
const PROBLEMS = {
  incomplete: {
    type: "This link is incomplete",
    message: "A job’s link ends with # and a long key, which is missing here. Open the whole link, or start a new job.",
  },
  invalid_token: {
    type: "This link opens no job",
    message: "Its key is damaged, or was made for another place. Open the whole link, or start a new job.",
  },
  token_expired: {
    type: "This link has expired",
    message: "A job can be watched for some days after its start, and that time has passed.",
  },
  refused: {
    type: "The server refuses this page",
    message: "It takes no connections from this address. Whoever runs it can change that.",
  },
  origin_not_allowed: {
    type: "The server refuses this page",
    message: "Its address is not one of those that may watch. Whoever runs the server can change that.",
  },
  forbidden: {
    type: "This link may not cancel the job",
    message: "Its key is for watching only.",
  },
  unavailable: {
    type: "The job could not be cancelled",
    message: "The server cannot reach its records just now. Try again.",
  },
  unknown: {
    type: "The server has lost this job’s record",
    message: "The job may well go on: the worker’s next report will show it here.",
  },
};
const LATE_MS = 5000; // longer than a proxy that swallows sockets takes to be recognised
const TRUSTED_PERCENT = 5; // below, too little has happened to tell how long the rest will take

const main = document.querySelector("main");
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

let watch;
let snapshot = null;
let problem = null; // why the job cannot be watched, in the shape of a job's own error
let asked = false; // whether to cancel has been asked here
let timer;

function start() {
  const token = location.hash.slice(1);
  const claims = readClaims(token);
  if (!token) return fail({ code: "incomplete" });
  if (claims && !location.pathname.toLowerCase().endsWith(`/${claims.sub}`)) return fail({ code: "invalid_token" });
  setTimeout(() => snapshot || problem || write("status", "The server does not answer yet; still trying…"), LATE_MS);
  watch = watchJob({ url: liveUrl, token, onConnection, onError: fail }, (newer) => {
    snapshot = newer;
    problem = null;
    asked &&= !newer.finished_at;
    render();
  });
  offer({ id: watch.id, token });
  if (mayCancel(claims)) element.cancel.addEventListener("click", cancel);
  else element.cancel.remove();
}

function cancel() {
  asked = true;
  watch.cancel();
  renderCancel();
}

function onConnection(state) {
  element.connection.hidden = state !== "reconnecting";
}

function fail({ code, message }) {
  problem = PROBLEMS[code] ?? { type: "This job cannot be watched", message };
  asked = false;
  render();
}

function render() {
  element.job.hidden = !snapshot;
  if (snapshot) renderJob();
  else write("status", "No job to show");
  renderError();
}

function renderJob() {
  const { version, kind, attempt, max_attempts: attempts, result, progress } = snapshot;
  Object.assign(main.dataset, { status: snapshot.status, version });
  write("kind", kind);
  write("status", statusText(snapshot));
  write("message", progress?.message);
  write("attempt", `${attempt} of ${attempts}`);
  element.attempts.hidden = attempt < 2;
  write("result", result === null ? "" : JSON.stringify(result, null, 2));
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
  write("percent", known);
  write("progress-text", amountText(snapshot));
  const mark = MARKS[snapshot.status];
  document.title = mark ? `${mark} ${snapshot.kind}` : `${(running && known) || statusText(snapshot)} · ${snapshot.kind}`;
}

/** Show the times, and again at each full second until the job has ended. */
function renderTimes() {
  clearTimeout(timer);
  const now = watch.now();
  const { started_at: started, finished_at: finished } = snapshot;
  const elapsed = started && Math.max(0, (finished ? Date.parse(finished) : now) - Date.parse(started));
  write("elapsed", started && clock(elapsed));
  write("remaining", remaining(snapshot, now));
  write("outlook", nextStepText(snapshot, now));
  main.toggleAttribute("data-lost", isWorkerLost(snapshot, now));
  if (!finished) timer = setTimeout(renderTimes, 1000 - ((elapsed || now) % 1000));
}

function renderCancel() {
  const wanted = asked || isCancelling(snapshot);
  element.cancel.disabled = wanted;
  element.cancel.hidden = !!snapshot.finished_at;
  write("cancel", wanted ? "Cancelling…" : "Cancel job");
}

/** An ended job needs no more watching: what became of it outweighs why it cannot be watched. */
function renderError() {
  const error = snapshot?.finished_at ? snapshot.error : (problem ?? snapshot?.error);
  element.error.hidden = !error;
  write("error-type", error?.type);
  write("error-message", error?.message);
}

/** Leave what has not changed alone, lest a screen reader says it again. */
function write(id, text) {
  if (element[id].textContent !== (text ?? "")) element[id].textContent = text ?? "";
}

/** "about 0:18", by the pace so far; "" where too little, an earlier attempt or an overdue report would spoil it */
function remaining({ status, attempt, progress, started_at: started, updated_at: updated }, now) {
  const percent = progress?.percent ?? 0;
  if (status !== "running" || attempt > 1 || percent < TRUSTED_PERCENT) return "";
  const pace = (Date.parse(updated) - Date.parse(started)) / percent;
  const rest = pace * (100 - percent) - (now - Date.parse(updated));
  return rest > 0 ? `about ${clock(rest + 999)}` : "";
}

/** "0:18", "1:02:03" */
function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const pad = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${pad(minutes)}:${pad(seconds % 60)}` : `${minutes}:${pad(seconds % 60)}`;
}

addEventListener("hashchange", () => location.reload()); // another link, pasted over this one
start();
