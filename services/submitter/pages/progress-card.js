/**
 * The card of a job: how far it is, what it is doing, what happens next, and for how long it has run.
 *
 * A page has one card: its parts have ids. Its styles are in `progress-card.css`, which the page loads.
 */

import { ClampedText } from "/assets/clamped-text.js";
import { h, setAttribute } from "/assets/dom.js";
import { amountText, messageText, nextStepText, percent, percentText, preciseDurationText, toneOf } from "/assets/format.js";
import { setText } from "/assets/text.js";
import { JobTimes, clockText } from "/assets/times.js";

const STEP = [{ transform: "translateX(-1rem)" }, { transform: "none" }]; // by one dash and one gap
const STEP_MS = 400;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class ProgressCard {
  /** What happens next, or why nothing happens; "" if nothing is due. */
  nextStep = "";
  /** The status of the job, or `lost` or `stalled` if its worker is lost or it has not advanced for long. */
  state = null;
  element;
  #times = new JobTimes();
  #snapshot = null;
  #current = null; // the amount that was last shown without a total
  #percent = h("p", { id: "percent", "aria-hidden": "true", translate: "no" });
  #amount = h("p", { id: "progress-text" });
  #bar = h("progress", { id: "bar", max: 100, value: 0, "aria-label": "Progress", "aria-describedby": "progress-text" });
  #fill = h("div", { id: "fill" }); // an element of its own: a progress element can only animate its layout
  #message = new ClampedText({ id: "message", moreId: "more", isSteady: true, attributes: { dir: "auto" } });
  #nextStep = h("p", { id: "outlook" });
  #elapsed = h("dd", { id: "elapsed", translate: "no" });
  #since = h("dd", { id: "elapsed-since" });
  #remaining = h("dd", { id: "remaining" });
  #attempt = h("dd", { id: "attempt" });
  #remainingFact = h("div", { id: "remaining-time" }, h("dt", {}, "Remaining"), this.#remaining);
  #attemptFact = h("div", { id: "attempts" }, h("dt", {}, "Attempt"), this.#attempt);

  constructor() {
    this.element = h(
      "div",
      { class: "card progress-card" },
      h("div", { class: "figure" }, this.#percent, this.#amount),
      h("div", { class: "track" }, this.#bar, this.#fill),
      h("div", { class: "words" }, this.#message.element, this.#nextStep),
      h("dl", {}, h("div", {}, h("dt", {}, "Elapsed"), this.#elapsed, this.#since), this.#remainingFact, this.#attemptFact),
    );
  }

  /** When the first attempt that is known started, as in a snapshot; null if no worker has started the job. */
  get startedAt() {
    const time = this.#snapshot && this.#times.started(this.#snapshot);
    return time === null ? null : new Date(time).toISOString();
  }

  /**
   * Render a state. Call this for each snapshot: the estimate of the remaining time is made from all of them.
   *
   * @param {object} state
   * @param {object} state.snapshot
   * @param {number} state.now the server's time in ms
   * @param {number} state.confirmedUntil the time until which the snapshot is known to be current, in ms
   * @param {?object} [state.position] the job's position in the queue
   * @param {?number} [state.lostAt] since when the connection is lost, by the server's time in ms: the clocks stand still
   * @returns {number} after how many ms the clock shows another time
   */
  render({ snapshot, now: currentTime, confirmedUntil, position = null, lostAt = null }) {
    const now = lostAt ?? currentTime;
    if (snapshot !== this.#snapshot) this.#times.add(snapshot);
    this.#snapshot = snapshot;
    this.#renderProgress(snapshot);
    this.state = toneOf(snapshot, confirmedUntil); // the worker is lost only if its lease has ended before the server's last sign of life
    setAttribute(this.element, "data-tone", this.state);
    this.nextStep = nextStepText(snapshot, now, confirmedUntil, position);
    setText(this.#nextStep, this.nextStep);
    this.element.toggleAttribute("data-stale", lostAt !== null);
    return this.#renderTimes(snapshot, now);
  }

  #renderProgress(snapshot) {
    const share = percent(snapshot);
    const isIndeterminate = share === null && snapshot.status === "running";
    if (isIndeterminate) this.#bar.removeAttribute("value");
    else this.#bar.value = share ?? 0;
    this.#fill.style.transform = share === null ? "" : `translateX(${share - 100}%)`;
    if (isIndeterminate) this.#moveDashes(snapshot.progress?.current ?? null);
    setText(this.#percent, percentText(snapshot));
    setText(this.#amount, amountText(snapshot) || emptyEndText(snapshot));
    this.#message.show(messageText(snapshot));
  }

  /** Move the bar of a job without a total by one step when the job has advanced. */
  #moveDashes(current) {
    if (current !== this.#current && this.#current !== null && !reducedMotion.matches) {
      this.#fill.animate(STEP, { duration: STEP_MS, easing: "ease-out" });
    }
    this.#current = current;
  }

  #renderTimes(snapshot, now) {
    const elapsed = this.#times.elapsed(snapshot, now);
    const remaining = this.state === "stalled" ? null : this.#times.remaining(snapshot, now);
    const isShort = snapshot.finished_at && elapsed?.ms < 1000; // a clock would show 0:00 for ever
    setText(this.#elapsed, elapsed && (isShort ? preciseDurationText(elapsed.ms) : clockText(elapsed.ms)));
    setText(this.#since, elapsed && `since ${elapsed.since}`);
    setText(this.#remaining, remaining && `about ${clockText(remaining + 999)}`);
    this.#remainingFact.hidden = remaining === null;
    setText(this.#attempt, `${snapshot.attempt.toLocaleString()} of ${snapshot.max_attempts.toLocaleString()}`);
    this.#attemptFact.hidden = snapshot.attempt < 2;
    return 1000 - ((elapsed?.ms ?? now) % 1000);
  }
}

/** Return what a job that has ended without progress shows in the place of its amount; "" for other jobs. */
function emptyEndText({ status, progress, started_at: started, finished_at: finished }) {
  if (progress || !finished || status === "succeeded") return "";
  return started ? "No progress" : "Never started";
}
