/** The numbers of the whole system, polled while the page is visible. */

import { durationText } from "/assets/format.js";

const POLL_MS = 5000;
const RARE_MS = 30_000; // between two reads of the kinds and of the poison queue
const ACTION_MS = 1000; // until an action shows in the counts

export class Overview {
  /** How many kinds, workers and poisoned jobs there are; null if that is unknown. */
  counts = { jobs: null, kinds: null, workers: null, poison: null };
  #app;
  #onChange;
  #list = null; // the last answer
  #slots = null; // as `{running, slots}`
  #error = null;
  #rareAt = 0; // when they were last read, in ms
  #timer;
  #closing = new AbortController();

  /** @param {() => void} onChange called when a number has changed, or the server has not answered */
  constructor(app, onChange) {
    this.#app = app;
    this.#onChange = onChange;
    const options = { signal: this.#closing.signal };
    document.addEventListener("visibilitychange", () => document.hidden || this.#schedule(0), options);
    addEventListener("online", () => this.#schedule(0), options);
    addEventListener("offline", onChange, options);
    app.api.onAction = () => {
      this.#rareAt = 0;
      this.#schedule(ACTION_MS);
    };
    this.#poll();
  }

  close() {
    this.#app.api.onAction = null;
    this.#closing.abort();
    clearTimeout(this.#timer);
  }

  /** Return what an operator should know, each as a line: what waits, since when, and how busy the workers are. */
  facts() {
    if (!this.#list) return [];
    const { about, now, complete } = this.#list;
    const number = (value) => value.toLocaleString();
    const oldest = about.oldest ? ` · oldest ${durationText(Math.max(0, Date.parse(now) - Date.parse(about.oldest)))}` : "";
    return [
      `${number(about.waiting)} waiting${oldest}`,
      about.queue === null ? "" : `${number(about.queue)} on the queue`,
      this.#slots ? `${number(this.#slots.running)} of ${number(this.#slots.slots)} slots busy` : "",
      complete ? "" : "Jobs may be missing: the index is being repaired.",
    ].filter(Boolean);
  }

  /** Return why the numbers are not current, "" if they are. */
  problem() {
    if (!navigator.onLine) return "This browser is offline";
    if (!this.#error) return "";
    if (this.#error.status === 401) return "Signed out";
    return this.#error.status === 503 ? "The notifier cannot read Redis" : "The notifier cannot be reached";
  }

  #schedule(delayMs) {
    clearTimeout(this.#timer);
    if (!this.#closing.signal.aborted && !document.hidden) this.#timer = setTimeout(() => this.#poll(), delayMs);
  }

  async #poll() {
    clearTimeout(this.#timer); // the next one follows the answer
    const { signal } = this.#closing;
    try {
      this.#list = await this.#app.api.live("/live/jobs", { limit: 1 });
      this.#error = null;
      await this.#readFleet();
    } catch (error) {
      this.#error = error;
    }
    if (signal.aborted) return;
    this.#schedule(POLL_MS);
    this.#onChange();
  }

  /** Read the workers, and now and then what changes rarely. What cannot be read has no number. */
  async #readFleet() {
    this.#onChange();
    const { api, session } = this.#app;
    const read = (name, request) => request().then((answer) => answer[name], () => null);
    const reads = session.canOperate ? { workers: () => api.live("/live/workers") } : {};
    if (Date.now() - this.#rareAt >= RARE_MS) {
      this.#rareAt = Date.now();
      reads.kinds = () => api.live("/live/kinds");
      if (session.canOperate) reads.jobs = () => api.submitter("/poison");
    }
    const answers = await Promise.all(Object.entries(reads).map(async ([name, request]) => [name, await read(name, request)]));
    this.#count(Object.fromEntries(answers));
  }

  #count({ workers = null, kinds, jobs }) {
    this.counts.workers = workers?.length ?? null;
    if (kinds !== undefined) this.counts.kinds = kinds?.length ?? null;
    if (jobs !== undefined) this.counts.poison = jobs?.length ?? null;
    const sum = (name) => workers.reduce((total, worker) => total + worker[name], 0);
    this.#slots = workers?.length ? { running: sum("running"), slots: sum("slots") } : null;
  }
}
