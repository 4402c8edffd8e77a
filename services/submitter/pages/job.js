/**
 * The job page. The file is the same for every job; the fragment of the URL is the token of the job to watch.
 *
 * Texts of jobs and workers are shown as text, never as markup.
 */

import { renderAttempts } from "/assets/attempts.js";
import {
  amountText,
  isCancelling,
  isStalled,
  isWaiting,
  isWorkerLost,
  messageText,
  nameText,
  nextStepText,
  percent,
  percentText,
  resultText,
  statusText,
} from "/assets/format.js";
import { liveUrl } from "/assets/live-url.js";
import { showMessage } from "/assets/message.js";
import { announce, lostText, showConnection } from "/assets/notice.js";
import { QueuePosition } from "/assets/position.js";
import { problemOf, waitingProblem } from "/assets/problems.js";
import { initSharing } from "/assets/share.js";
import { setText as write } from "/assets/text.js";
import { JobTimes, clockText } from "/assets/times.js";
import { mayCancel, readClaims } from "/assets/token.js";
import { watchJob } from "/assets/watch.js";

const TITLE_MARKS = { succeeded: "✓", failed: "✗", cancelled: "⊘" };
const SLOW_START_MS = 5000; // longer than the fallback from a proxy that blocks WebSockets takes

const main = document.querySelector("main");
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
const times = new JobTimes();

let watch;
let position;
let snapshot = null;
let problem = null; // why the job cannot be watched, in the format of a job's error
let connection = { state: "connecting" };
let confirmedAt = 0; // the server's time until which the snapshot was known to be current, in ms
let lostAt = null; // the server's time when the page noticed that the connection is lost: its clocks stand still
let isSlow = false; // whether the first snapshot is overdue
let isShown = false; // whether the page has shown a snapshot: announcements begin with the changes after it
let cancelRequested = false; // whether this page has requested the cancellation
let title;
let timer;

function start() {
  element.headline.hidden = false;
  const token = location.hash.slice(1);
  const claims = readClaims(token);
  if (claims?.kind) setText("kind", claims.kind); // its length would move the page later
  if (!token) return onError({ code: "incomplete" });
  if (claims && !location.pathname.toLowerCase().endsWith(`/${claims.sub}`)) return onError({ code: "invalid_token" });
  setTimeout(() => {
    isSlow = true;
    render();
  }, SLOW_START_MS);
  watch = watchJob({ url: liveUrl, token, onConnection, onError }, onSnapshot);
  position = new QueuePosition(liveUrl, token, renderTimes);
  initSharing({ id: watch.id, token });
  if (mayCancel(claims)) element.cancel.addEventListener("click", cancel);
  else element.cancel.remove();
}

function cancel() {
  if (element.cancel.ariaDisabled === "true") return;
  cancelRequested = true;
  watch.cancel();
  renderCancel();
}

function onSnapshot(newer) {
  snapshot = newer;
  problem = null;
  cancelRequested &&= !newer.finished_at;
  times.add(newer);
  render();
}

function onConnection(state, detail) {
  connection = { state, detail };
  lostAt = lostText(state, snapshot) ? (lostAt ?? watch.now()) : null;
  render();
}

function onError(error) {
  problem = problemOf(error);
  cancelRequested = false;
  render();
}

function render() {
  element.job.hidden = !snapshot;
  if (snapshot) renderJob();
  else renderNoJob();
}

function renderNoJob() {
  const isWaiting = isSlow || lostAt !== null;
  const waiting = isWaiting ? waitingProblem(liveUrl, connection) : { type: "Connecting…" };
  setText("status", problem ? "No job to show" : waiting.type);
  showError(problem ?? (waiting.message && { message: waiting.message }));
}

function renderJob() {
  const { version, status, attempt, max_attempts: attempts, result } = snapshot;
  Object.assign(main.dataset, { status, version });
  main.toggleAttribute("data-stale", lostAt !== null);
  const knownAt = Math.max(confirmedAt, Date.parse(snapshot.updated_at ?? snapshot.submitted_at));
  showConnection(lostText(connection.state, snapshot), knownAt);
  setText("kind", nameText(snapshot));
  element.kind.translate = Boolean(snapshot.name); // a kind is an identifier
  setText("status", statusText(snapshot));
  setText("attempt", `${attempt} of ${attempts}`);
  element.attempts.hidden = attempt < 2;
  setText("result", resultText(snapshot));
  element.outcome.hidden = result === null;
  renderAttempts(element["earlier-attempts"], snapshot);
  element.earlier.hidden = !element["earlier-attempts"].hasChildNodes();
  renderProgress();
  renderTimes();
  renderCancel();
  renderError();
}

function renderProgress() {
  const share = percent(snapshot);
  if (share === null && snapshot.status === "running") element.bar.removeAttribute("value");
  else element.bar.value = share ?? 0;
  element.fill.style.transform = share === null ? "" : `translateX(${share - 100}%)`;
  setText("percent", percentText(snapshot));
  setText("progress-text", amountText(snapshot));
  showMessage(messageText(snapshot));
}

/** Show the times, and update them every second until the connection is lost. */
function renderTimes() {
  clearTimeout(timer);
  const now = lostAt ?? watch.now();
  confirmedAt = watch.confirmedUntil() || confirmedAt;
  const elapsed = times.elapsed(snapshot, now);
  const remaining = isStalled(snapshot, watch.confirmedUntil()) ? null : times.remaining(snapshot, now);
  setText("elapsed", elapsed && clockText(elapsed.ms));
  setText("elapsed-since", elapsed && `since ${elapsed.since}`);
  setText("remaining", remaining && `about ${clockText(remaining + 999)}`);
  element["remaining-time"].hidden = remaining === null;
  renderNextStep(now);
  renderTitle();
  if (lostAt === null) timer = setTimeout(renderTimes, 1000 - ((elapsed?.ms ?? now) % 1000));
}

/** Show what happens next. A worker is lost only if its lease has ended before the server's last sign of life. */
function renderNextStep(now) {
  const confirmedUntil = watch.confirmedUntil();
  const isQueued = connection.state === "live" && isWaiting(snapshot, now);
  const text = nextStepText(snapshot, now, confirmedUntil, position.poll(isQueued ? snapshot.id : null));
  const states = { lost: isWorkerLost(snapshot, confirmedUntil), stalled: isStalled(snapshot, confirmedUntil) };
  setText("outlook", text);
  for (const [name, isNow] of Object.entries(states)) {
    if (isNow && !main.hasAttribute(`data-${name}`)) announce(text);
    main.toggleAttribute(`data-${name}`, isNow);
  }
}

function renderTitle() {
  const { status } = snapshot;
  const name = nameText(snapshot);
  const mark = TITLE_MARKS[status];
  const label = lostText(connection.state, snapshot) || (status === "running" && percentText(snapshot)) || statusText(snapshot);
  const newTitle = mark ? `${mark} ${name}` : `${label} · ${name}`;
  if (newTitle !== title) document.title = title = newTitle; // a translator may have changed it in the document
}

/** Show the button until the job has ended. Then the status gets its focus, which a hidden button would lose. */
function renderCancel() {
  const { cancel: button, status } = element;
  const cancelling = cancelRequested || isCancelling(snapshot);
  const finished = Boolean(snapshot.finished_at);
  button.ariaDisabled = String(cancelling);
  setText("cancel", cancelling ? "Cancelling…" : "Cancel job");
  if (finished && document.activeElement === button) status.focus();
  button.hidden = finished;
}

/** Show the job's error, or the problem of watching it. Once the job has ended, only its own error matters. */
function renderError() {
  const error = problem && !snapshot.finished_at ? problem : snapshot.error;
  const isNew = showError(error);
  if (error && isNew && isShown) announce(`${error.type}: ${error.message}`);
  isShown = true;
}

/** Show or hide an error; return whether its text is new. */
function showError(error) {
  element.error.hidden = !error;
  element["error-type"].hidden = !error?.type;
  element["error-type"].translate = error === problem; // the type of a job's error is an identifier
  return [setText("error-type", error?.type), setText("error-message", error?.message)].some(Boolean);
}

function setText(id, text) {
  return write(element[id], text);
}

addEventListener("hashchange", () => location.reload()); // another link was pasted into the address bar
start();
