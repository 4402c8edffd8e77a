/**
 * The job's page: the same file for every job, told by the token behind the `#` which one to watch.
 *
 * Whatever a job or its worker says is shown as text, never as markup.
 */

import { watchJob } from "/assets/headway.js";
import { liveUrl } from "/assets/live-url.js";

const WORDS = {
  queued: "Queued",
  running: "Running",
  retrying: "Retrying",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};
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
  unknown: {
    type: "The server has lost this job’s record",
    message: "The job may well go on: the worker’s next report will show it here.",
  },
};
const TRUSTED_PERCENT = 5; // below, too little has happened to tell how long the rest will take

const main = document.querySelector("main");
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

let watch;
let snapshot = null;
let problem = null; // why the job cannot be watched, in the shape of a job's own error
let timer;

function start() {
  const token = location.hash.slice(1);
  if (!token) return fail({ code: "incomplete" });
  watch = watchJob({ url: liveUrl, token, onConnection, onError: fail }, (newer) => {
    snapshot = newer;
    problem = null;
    render();
  });
}

function onConnection(state) {
  element.connection.hidden = state !== "reconnecting";
}

function fail({ code, message }) {
  problem = PROBLEMS[code] ?? { type: "This job cannot be watched", message };
  render();
}

function render() {
  element.job.hidden = !snapshot;
  if (snapshot) renderJob();
  else write("status", "No job to show");
  renderError();
}

function renderJob() {
  const { status, version, kind, attempt, max_attempts: attempts, result, progress } = snapshot;
  Object.assign(main.dataset, { status, version });
  write("kind", kind);
  write("status", word(snapshot));
  write("due", due(snapshot));
  write("message", progress?.message);
  write("attempt", `${attempt} of ${attempts}`);
  element.attempts.hidden = attempt < 2;
  write("result", result === null ? "" : JSON.stringify(result, null, 2));
  element.outcome.hidden = result === null;
  renderProgress();
  renderTimes();
}

function renderProgress() {
  const { status, kind, progress } = snapshot;
  const percent = status === "succeeded" ? 100 : progress?.percent;
  const figure = percent == null ? "" : `${Math.floor(percent)} %`; // rounded down: 100 is for what is done
  if (percent == null && status === "running") element.bar.removeAttribute("value");
  else element.bar.value = percent ?? 0;
  write("percent", figure);
  write("progress-text", amount(progress));
  const state = status === "running" && figure ? figure : word(snapshot);
  document.title = MARKS[status] ? `${MARKS[status]} ${kind}` : `${state} · ${kind}`;
}

/** Show the times, and again at each full second until the job has ended. */
function renderTimes() {
  clearTimeout(timer);
  const { started_at: started, finished_at: finished } = snapshot;
  const elapsed = started && Math.max(0, (finished ? Date.parse(finished) : watch.now()) - Date.parse(started));
  write("elapsed", started && clock(elapsed));
  write("remaining", remaining(snapshot, watch.now()));
  if (started && !finished) timer = setTimeout(renderTimes, 1000 - (elapsed % 1000));
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

/** "Running" */
function word({ status, cancel_requested: cancelling, finished_at: finished }) {
  return cancelling && !finished ? "Cancelling" : WORDS[status];
}

/** "40 of 100 %", "4 of 10 files", "4 files" */
function amount(progress) {
  if (!progress) return "";
  const { current, total, unit } = progress;
  const whole = total === null ? "" : `of ${number.format(total)}`;
  return [number.format(current), whole, unit].filter(Boolean).join(" ");
}

/** "starts at 14:05:00", in the reader's own time */
function due({ status, due_at: at }) {
  const verb = { queued: "starts", retrying: "tries again" }[status];
  if (!at || !verb) return "";
  const moment = new Date(at);
  const today = moment.toDateString() === new Date().toDateString();
  const style = today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" };
  return `${verb} at ${moment.toLocaleString([], style)}`;
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
