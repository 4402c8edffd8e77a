/** The page of one job: its head, its story from the progress to the log, and the facts beside it. */

import { h, setAttribute } from "/assets/dom.js";
import { ErrorCard } from "/assets/error-card.js";
import { connectionText, isWaiting, nameText, percentText, statusText } from "/assets/format.js";
import { JobFacts } from "/assets/job-facts.js";
import { JobHead } from "/assets/job-head.js";
import { JobSteps } from "/assets/job-steps.js";
import { JobWatch } from "/assets/job-watch.js";
import { LogView } from "/assets/log-view.js";
import { ProgressCard } from "/assets/progress-card.js";
import { setText } from "/assets/text.js";
import { momentText } from "/assets/time-text.js";
import { Timeline } from "/assets/timeline.js";

const TICK_MS = 1000;
const LOADING_MS = 300; // after which a page without a job says that it loads: a quick one does not flash
const SLOW_MS = 5000; // without a snapshot
const DETAILS_MS = 1500; // for which the page waits for the details: what is shown before them moves when they come
const PROBLEMS = {
  unknown: "The server has no record of this job. Records are removed an hour after a job expires, 7 days after its submission by default, and may be lost with Redis. If the job still runs, the next report of its worker shows it here.",
  forbidden: "The token of this session does not open this job.",
  too_many_watches: "This browser watches too many jobs. Close other pages that show jobs, then reload this page.",
  origin_not_allowed: "The notifier does not accept this page’s address: it is not on the list of allowed origins.",
};

export class JobPage {
  #id;
  #watch;
  #head;
  #card = new ProgressCard();
  #timeline = new Timeline();
  #error = new ErrorCard();
  #steps = new JobSteps();
  #log;
  #facts;
  #notice = h("p", { class: "job-notice", role: "status" });
  #story;
  #waiting = ""; // what the page says while it shows no job
  #isDue = false; // whether to wait for the details no longer
  #timers;
  element;

  constructor(app, id) {
    this.#id = id;
    this.#watch = new JobWatch(app, id, () => this.#render());
    this.#head = new JobHead(app, id, () => this.#watch.readDetails());
    this.#log = new LogView(app);
    this.#facts = new JobFacts(() => this.#watch.readDetails());
    const parts = [this.#card, this.#timeline, this.#error, this.#steps, this.#log].map(({ element }) => element);
    this.#story = h("div", { class: "job-columns", hidden: true }, h("div", { class: "job-story" }, parts), this.#facts.element);
    this.element = h("article", { class: "job-page" }, this.#head.element, this.#notice, this.#story);
    const say = (text, afterMs) => setTimeout(() => this.#wait(text), afterMs);
    const texts = [say("Loading…", LOADING_MS), say("The server does not answer yet; still trying…", SLOW_MS)];
    this.#timers = [setInterval(() => this.#tick(), TICK_MS), ...texts, setTimeout(() => this.#onDue(), DETAILS_MS)];
    document.title = "Job · Headway";
    this.#renderNotice();
  }

  /** Mark the line of the log that a hash such as `line-120` names; "" names none. */
  showLine(hash) {
    this.#log.showLine(hash);
  }

  close() {
    this.#timers.forEach(clearTimeout);
    this.#watch.close();
    this.#head.close();
    this.#log.close();
  }

  #tick() {
    this.#watch.tick();
    this.#render();
  }

  #wait(text) {
    this.#waiting = text;
    this.#renderNotice();
  }

  #onDue() {
    this.#isDue = true;
    this.#render();
  }

  #render() {
    const { snapshot, details, detailsProblem, now, lostAt } = this.#watch;
    this.#renderNotice();
    if (!snapshot) return;
    this.#renderCard(snapshot, now);
    this.#head.render(snapshot, this.#card.state);
    this.#timeline.render(snapshot, details, { state: this.#card.state, now, isStale: lostAt !== null });
    this.#error.render(snapshot, details);
    this.#steps.render(snapshot, details?.steps ?? [], now);
    this.#facts.render(this.#watch);
    setAttribute(this.element, "data-stale", lostAt !== null);
    this.#renderTitle(snapshot);
    if (this.#story.hidden && (details || detailsProblem || this.#isDue)) this.#start(snapshot);
  }

  /** Show what there is, once it is known. */
  #start({ finished_at: finished }) {
    setAttribute(this.element, "data-ended", Boolean(finished)); // needs no space for what may still come
    this.#story.hidden = false;
    this.#renderNotice();
    this.#log.watch(this.#id, { ended: Boolean(finished) });
  }

  #renderCard(snapshot, now) {
    const { confirmedUntil, lostAt } = this.#watch;
    const position = this.#watch.pollPosition(isWaiting(snapshot, now));
    this.#card.render({ snapshot, now, confirmedUntil, position, lostAt });
  }

  /** Say why the page shows no job, or not its present state. */
  #renderNotice() {
    const { snapshot, problem, connection, lostAt, knownAt, now } = this.#watch;
    const lost = lostAt === null ? "" : connectionText(connection, snapshot) || "Not connected.";
    const stale = lost && snapshot ? `${lost} This is the state of ${momentText(knownAt, now)}.` : lost;
    const waiting = this.#story.hidden ? this.#waiting : "";
    setText(this.#notice, (problem && textOf(problem)) || stale || waiting);
    this.#notice.hidden = !this.#notice.textContent;
  }

  #renderTitle(snapshot) {
    const state = (snapshot.status === "running" && percentText(snapshot)) || statusText(snapshot);
    const title = `${state} · ${nameText(snapshot)} · Headway`;
    if (document.title !== title) document.title = title;
  }
}

function textOf({ code, message, cause }) {
  return PROBLEMS[code] ?? cause?.message ?? message;
}
