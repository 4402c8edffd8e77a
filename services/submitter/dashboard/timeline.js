/** The timeline of a job: one lane for the wait before the first attempt, and one for each attempt and the wait after it. */

import { arrange, h, setAttribute } from "/assets/dom.js";
import { errorText, preciseDurationText } from "/assets/format.js";
import { setText } from "/assets/text.js";
import { momentText } from "/assets/time-text.js";
import { attemptsOf, isContinued, partsOf, place } from "/assets/timeline-scale.js";

const OUTCOMES = { lost: "its worker was lost", released: "released by its worker, which stopped" };
const RUNNING = { running: "Running", stalled: "Running, but not advancing", lost: "Its worker is lost" };
const TONES = { lost: "lost", released: "queued", failed: "failed", succeeded: "succeeded", cancelled: "cancelled" };
const MIN_BAR = "3px"; // as wide as the style sheet draws the shortest part

export class Timeline {
  #list = h("ol", { class: "lanes" });
  #start = h("span");
  #end = h("span");
  element = h(
    "section",
    { class: "card", "aria-labelledby": "timeline-title" },
    h("h2", { id: "timeline-title" }, "Timeline"),
    this.#list,
    h("div", { class: "axis", "aria-hidden": "true" }, this.#start, this.#end),
  );

  /**
   * Show the attempts of a job as of now, by the server's clock in ms.
   *
   * @param {object} snapshot
   * @param {?object} details
   * @param {object} shown
   * @param {string} shown.state the status, or `lost` or `stalled` for a running job whose worker is lost or that does not
   *   advance
   * @param {number} shown.now
   * @param {boolean} shown.isStale whether this is not the present any more
   */
  render(snapshot, details, { state, now, isStale }) {
    const attempts = attemptsOf(snapshot, details);
    const parts = place(partsOf(snapshot, attempts, now));
    const lanes = attempts.map((attempt, row) => attemptLane(attempt, row, { snapshot, parts, state, now, next: attempts[row + 1] }));
    const first = waitLane(attempts, parts, snapshot, now);
    if (first) lanes.unshift(first);
    const rows = arrange(this.#list, lanes.map(({ key }) => key), () => new Lane());
    for (const lane of lanes) rows.get(lane.key).render(lane);
    this.#renderAxis(snapshot, now, isStale);
    this.element.hidden = !lanes.length;
  }

  #renderAxis({ submitted_at: submitted, finished_at: finished }, now, isStale) {
    setText(this.#start, momentText(submitted, now));
    setText(this.#end, finished || isStale ? momentText(finished ?? now, submitted) : "now");
  }
}

/** A row: a name, bars on the axis of all rows, a duration, and what happened. The bars say nothing that the texts do not. */
class Lane {
  #name = h("span", { class: "lane-name" });
  #track = h("span", { class: "lane-track", "aria-hidden": "true" });
  #span = h("span", { class: "number soft" });
  #outcome = h("span");
  #error = h("bdi");
  #rest = h("span");
  #note = h("p", { class: "lane-note cut" }, this.#outcome, this.#error, this.#rest);
  element = h("li", { class: "lane" }, this.#name, this.#track, this.#span, this.#note);

  render({ name, tone, parts, span, outcome = "", error = "", rest }) {
    setAttribute(this.element, "data-tone", tone);
    setText(this.#name, name);
    setText(this.#span, span);
    setText(this.#outcome, error ? `${outcome}: ` : outcome);
    setText(this.#error, error);
    setText(this.#rest, outcome && rest ? ` · ${rest}` : rest);
    this.#note.hidden = !outcome && !rest;
    arrange(this.#track, parts.map(({ type }, index) => `${type} ${index}`), (key) => h("span", { class: `lane-${key.split(" ")[0]}` }));
    parts.forEach((part, index) => renderBar(this.#track.children[index], part));
  }
}

function renderBar(bar, { start, share, isShortened }) {
  const [from, size] = [`min(${(100 * start).toFixed(2)}%, 100% - ${MIN_BAR})`, `${(100 * share).toFixed(2)}%`];
  const place = `${from} ${size}`;
  if (bar.dataset.place !== place) Object.assign(bar.style, { insetInlineStart: from, inlineSize: size });
  bar.dataset.place = place;
  setAttribute(bar, "data-shortened", isShortened);
}

/** Return the lane before the first known start, null if the job did not wait. */
function waitLane(attempts, parts, snapshot, now) {
  const own = parts.filter(({ row }) => row === -1);
  if (!own.length) return null;
  const [name, note] = firstWaitTexts(attempts, snapshot, now);
  const [wait, idle] = [lengthText(own, "wait"), lengthText(own, "idle")];
  const again = idle && `Run again after ${idle}`;
  return { key: "wait", name, tone: "queued", parts: own, span: wait || "–", rest: joined(again, note, shortenedText(own)) };
}

/** Return what the time before the first known start is called, and what is to be said about it. */
function firstWaitTexts(attempts, snapshot, now) {
  const [first] = attempts;
  if (first?.attempt > 1) return [`Before attempt ${first.attempt}`, "What happened before is not recorded any more"];
  if (attempts.length === 1 && isContinued(snapshot)) return ["Before", "It has run in this time, too, until its worker stopped"];
  if (first || snapshot.finished_at) return ["Waited", ""];
  const delayMs = Date.parse(snapshot.due_at) - now;
  return ["Waiting", delayMs > 0 ? `Starts in ${preciseDurationText(delayMs)}` : ""];
}

function attemptLane(attempt, row, { snapshot, parts, state, now, next }) {
  const own = parts.filter((part) => part.row === row);
  const run = own.find(({ type }) => type === "run");
  const isRunning = !next && snapshot.status === "running";
  return {
    key: `${row} ${attempt.started_at}`,
    name: `Attempt ${attempt.attempt}`,
    tone: isRunning ? state : (TONES[attempt.outcome] ?? "queued"),
    parts: own,
    span: run ? preciseDurationText(run.to - run.from) : "–",
    outcome: isRunning ? RUNNING[state] : outcomeText(attempt),
    error: errorText(attempt.error),
    rest: joined(...waitTexts(own, attempt, next, snapshot, now), shortenedText(own)),
  };
}

function outcomeText({ outcome, started_at: started }) {
  const text = OUTCOMES[outcome] ?? outcome ?? "";
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${started ? "" : " before its start"}`;
}

/** Return what a job did between an attempt and the next one, or does until then. After a redrive, attempts count from 1 again. */
function waitTexts(parts, { attempt }, next, { status, due_at: due, finished_at: finished }, now) {
  const [wait, idle] = [lengthText(parts, "wait"), lengthText(parts, "idle")];
  if (next && next.attempt <= attempt && !idle) return [`Then run again${wait && ` after ${wait}`}`]; // it is not known when
  const again = idle && `Then run again after ${idle}`;
  if (next || finished) return [again, wait && `${again ? "Waited" : "Then waited"} ${wait}`];
  if (status === "running") return [];
  return [again, Date.parse(due) > now ? `Next attempt in ${preciseDurationText(Date.parse(due) - now)}` : wait && `Waiting for ${wait}`];
}

/** Return how long the part of a type is, "" if there is none. */
function lengthText(parts, type) {
  const part = parts.find((each) => each.type === type);
  return part ? preciseDurationText(part.to - part.from) : "";
}

function shortenedText(parts) {
  const part = parts.find(({ isShortened }) => isShortened);
  return part ? `The ${part.type === "wait" ? "wait" : "time before"} is drawn shorter than it is` : "";
}

function joined(...texts) {
  return texts.filter(Boolean).join(" · ");
}
