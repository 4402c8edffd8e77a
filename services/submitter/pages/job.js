/**
 * The job page. The file is the same for every job; the fragment of the URL is the token of the job to watch.
 *
 * Texts of jobs and workers are shown as text, never as markup.
 */

import { renderAttempts } from "/assets/attempts.js";
import { ClampedText } from "/assets/clamped-text.js";
import { copyButton } from "/assets/copy-button.js";
import { showDates } from "/assets/dates.js";
import { errorName, errorText, isCancelling, isWaiting, nameText, percentText, resultText, shortId, statusText } from "/assets/format.js";
import { statusIcon } from "/assets/icons.js";
import { jsonTree } from "/assets/json-tree.js";
import { liveUrl } from "/assets/live-url.js";
import { announce, lostText, showConnection } from "/assets/notice.js";
import { QueuePosition } from "/assets/position.js";
import { problemOf, waitingProblem } from "/assets/problems.js";
import { ProgressCard } from "/assets/progress-card.js";
import { initSharing } from "/assets/share.js";
import { setText as write } from "/assets/text.js";
import { mayCancel, readClaims, TOKEN_REJECTIONS } from "/assets/token.js";
import { watchJob } from "/assets/watch.js";

const TITLE_MARKS = { succeeded: "✓", failed: "✗", cancelled: "⊘" };
const SLOW_START_MS = 5000; // longer than the fallback from a proxy that blocks WebSockets takes

const jobId = location.pathname.split("/").pop();
const main = document.querySelector("main");
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
const card = new ProgressCard();
const errorMessage = new ClampedText({ id: "error-message", moreId: "error-more" });
const errorCopy = copyButton("error", () => errorText(snapshot.error));

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
let shownState = null; // of the job, as the card has it
let shownResult = ""; // as JSON
let title;
let timer;

function start() {
  element.job.prepend(card.element);
  errorMessage.element.append(errorCopy);
  element.error.append(errorMessage.element);
  element.headline.hidden = false;
  element.unloaded.remove();
  const token = location.hash.slice(1);
  const claims = readClaims(token);
  if (claims?.kind) renderName(claims); // its length would move the page later
  if (!token) return onError({ code: "incomplete" });
  if (claims && !location.pathname.toLowerCase().endsWith(`/${claims.sub}`)) return onError({ code: "invalid_token" });
  setTimeout(() => {
    isSlow = true;
    render();
  }, SLOW_START_MS);
  watch = watchJob({ url: liveUrl, token, onConnection, onError }, onSnapshot);
  position = new QueuePosition(liveUrl, () => token, renderTimes);
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
  const { version, status } = snapshot;
  Object.assign(main.dataset, { status, version });
  const knownAt = Math.max(confirmedAt, Date.parse(snapshot.updated_at ?? snapshot.submitted_at));
  showConnection(lostText(connection.state, snapshot), knownAt);
  renderName(snapshot);
  setText("status", statusText(snapshot));
  renderTimes();
  renderResult();
  renderAttempts(element["earlier-attempts"], snapshot);
  element.earlier.hidden = !element["earlier-attempts"].hasChildNodes();
  renderCancel();
  renderError();
}

/** Show what the job is called. Below a name stand the kind and the beginning of the id, below a kind only the latter. */
function renderName({ name, kind }) {
  setText("kind", nameText({ name, kind }));
  element.kind.translate = Boolean(name); // a kind is an identifier
  setText("label", [name && kind, shortId(jobId)].filter(Boolean).join(" · "));
}

/** Show the card and the times, and update them every second until the connection is lost. */
function renderTimes() {
  clearTimeout(timer);
  const now = lostAt ?? watch.now();
  const confirmedUntil = watch.confirmedUntil();
  confirmedAt = confirmedUntil || confirmedAt;
  const isQueued = connection.state === "live" && isWaiting(snapshot, now);
  const queuePosition = position.poll(isQueued ? snapshot.id : null);
  const delay = card.render({ snapshot, now, confirmedUntil, position: queuePosition, lostAt });
  const { submitted_at: submitted, finished_at: finished } = snapshot;
  showDates([submitted, card.startedAt, finished], now);
  renderState();
  renderTitle();
  if (lostAt === null) timer = setTimeout(renderTimes, delay);
}

/** Show the shape and the color of the state, and announce that the worker is lost or that the job does not advance. */
function renderState() {
  const { state } = card;
  main.toggleAttribute("data-stale", lostAt !== null);
  element.chip.dataset.tone = lostAt === null ? state : "stale";
  if (state === shownState) return;
  shownState = state;
  element.chip.querySelector("svg")?.remove();
  element.chip.prepend(statusIcon(state));
  if (state === "lost" || state === "stalled") announce(card.nextStep);
}

/** Show the result as a tree. A tree that stays keeps what is open in it. */
function renderResult() {
  const text = resultText(snapshot);
  element.outcome.hidden = !text;
  if (text === shownResult) return;
  shownResult = text;
  element.outcome.querySelector(".json")?.remove();
  if (!text) return;
  const json = jsonTree(text, { label: "Result" });
  json.firstElementChild.id = "result";
  element.outcome.append(json);
}

function renderTitle() {
  const { status } = snapshot;
  const name = nameText(snapshot);
  const mark = TITLE_MARKS[status];
  const label = lostText(connection.state, snapshot) || (status === "running" && percentText(snapshot)) || statusText(snapshot);
  const newTitle = mark ? `${mark} ${name}` : `${label} · ${name}`;
  if (newTitle !== title) document.title = title = newTitle; // a translator may have changed it in the document
}

/** Show the button until the job or the link has ended. Then the status gets its focus, which a hidden button would lose. */
function renderCancel() {
  const { cancel: button, status } = element;
  const cancelling = cancelRequested || isCancelling(snapshot);
  const isOver = Boolean(snapshot.finished_at) || TOKEN_REJECTIONS.has(problem?.code);
  button.ariaDisabled = String(cancelling);
  setText("cancel", cancelling ? "Cancelling…" : "Cancel job");
  if (isOver && document.activeElement === button) status.focus();
  button.hidden = isOver;
}

/** Show the job's error, or the problem of watching it. Once the job has ended, only its own error matters. */
function renderError() {
  const error = problem && !snapshot.finished_at ? problem : snapshot.error;
  const isNew = showError(error);
  if (error && isNew && isShown) announce(errorText(error));
  isShown = true;
}

/** Show or hide an error; return whether its text is new. */
function showError(error) {
  const isOwn = Boolean(error) && error === snapshot?.error; // of the job: its type is an identifier, and its message may be laid out
  element.error.hidden = !error;
  element.error.toggleAttribute("data-own", isOwn);
  const name = isOwn ? errorName(error.type, error.message) : error?.type;
  element["error-type"].hidden = !name;
  element["error-type"].translate = !isOwn;
  errorCopy.hidden = !isOwn;
  return [setText("error-type", name), errorMessage.show(error?.message)].some(Boolean);
}

function setText(id, text) {
  return write(element[id], text);
}

addEventListener("hashchange", () => location.reload()); // another link was pasted into the address bar
start();
