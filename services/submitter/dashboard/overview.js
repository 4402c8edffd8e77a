/** The numbers of the whole system, and the data from which these and the views are made. */

import { durationText } from "/assets/format.js";
import { Refresh } from "/assets/refresh.js";

const INTERVALS_MS = { kinds: 30_000, poison: 30_000 }; // of what changes rarely; a view that shows it has it read more often
const ACTION_MS = 1000; // until an action shows in the data
const LISTS = { kinds: "kinds", workers: "workers", poison: "jobs" }; // in the data: what is counted

/** Return what several parts of the page show, by name; each is read once for all of them. */
export function sharedData(api) {
  const data = {
    jobs: new Refresh(() => api.live("/live/jobs", { limit: 1 })),
    kinds: new Refresh(() => api.live("/live/kinds")),
    workers: new Refresh(() => api.live("/live/workers")),
    poison: new Refresh(() => api.submitter("/poison", { parse: (text) => ({ ...JSON.parse(text), text }) })), // with all digits
  };
  api.onAction = () => Object.values(data).forEach((each) => each.after(ACTION_MS));
  return data;
}

export class Overview {
  #data;
  #unsubscribe;

  /** @param {() => void} onChange called when a number may have changed, or the server has not answered */
  constructor({ data, session }, onChange) {
    this.#data = data;
    const names = session.canOperate ? Object.keys(data) : ["jobs", "kinds"];
    this.#unsubscribe = names.map((name) => data[name].subscribe(onChange, INTERVALS_MS[name]));
  }

  close() {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }

  /** Return how many kinds, workers or poisoned jobs there are; null if that is unknown. */
  count(view) {
    return this.#list(view)?.length ?? null;
  }

  /** Return what an operator should know, each as a line: what waits, since when, and how busy the workers are. */
  facts() {
    const list = this.#data.jobs.data;
    if (!list) return [];
    const { about, now, complete } = list;
    const number = (value) => value.toLocaleString();
    const again = about.retrying ? `, ${number(about.retrying)} to retry` : "";
    const oldest = about.oldest ? ` · oldest ${durationText(Math.max(0, Date.parse(now) - Date.parse(about.oldest)))}` : "";
    const workers = this.#list("workers") ?? [];
    const sum = (name) => number(workers.reduce((total, worker) => total + worker[name], 0));
    return [
      `${number(about.waiting)} waiting${again}${oldest}`,
      about.queue === null ? "" : `${number(about.queue)} on the queue`,
      workers.length ? `${sum("running")} of ${sum("slots")} slots busy` : "",
      complete ? "" : "Jobs may be missing: the index is being repaired.",
    ].filter(Boolean);
  }

  /** Return why the numbers are not current, "" if they are. */
  problem() {
    const { error } = this.#data.jobs;
    if (!navigator.onLine) return "This browser is offline";
    if (!error) return "";
    if (error.status === 401) return "Signed out";
    return error.status === 503 ? "The notifier cannot read Redis" : "The notifier cannot be reached";
  }

  /** Return a list of the data; null if it cannot be read although the notifier answers. */
  #list(name) {
    const { data, error } = this.#data[name];
    return error && !this.#data.jobs.error ? null : data?.[LISTS[name]];
  }
}
