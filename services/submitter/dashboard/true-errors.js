/** The true errors of jobs, which only operators see. Each is read once, a few at a time. */

import { readDetails } from "/assets/details.js";
import { errorText } from "/assets/format.js";

const MAX_READS = 4; // at once
const MAX_ERRORS = 1000; // that are kept
const RETRY_MS = 3000; // after a read that has failed

export class TrueErrors {
  #api;
  #onChange;
  #noError;
  #noRecord;
  #errors = new Map(); // by job: the text, "" while it is read
  #waiting = []; // the jobs whose errors will be read
  #reads = 0;
  #retryAt = 0; // by the monotonic clock

  /**
   * @param {import("./api.js").Api} api
   * @param {() => void} onChange called when an error has arrived
   * @param {{noError?: string, noRecord?: string}} [texts] for jobs whose records have no error, or that have no record
   */
  constructor(api, onChange, { noError = "", noRecord = "" } = {}) {
    this.#api = api;
    this.#onChange = onChange;
    this.#noError = noError;
    this.#noRecord = noRecord;
  }

  /** Return the true error of a job in one line, "" while it is unknown. */
  textOf(job) {
    return this.#errors.get(keyOf(job)) ?? "";
  }

  /** Read the errors of these jobs that are not yet known, and of no others. */
  request(jobs) {
    this.#waiting = jobs.filter((job) => !this.#errors.has(keyOf(job)));
    while (this.#waiting.length && this.#reads < MAX_READS && performance.now() >= this.#retryAt) this.#read(this.#waiting.shift());
  }

  async #read(job) {
    const key = keyOf(job);
    this.#reads++;
    if (this.#errors.size >= MAX_ERRORS) this.#errors.clear();
    this.#errors.set(key, "");
    try {
      const { error } = await readDetails(this.#api, job.id);
      this.#errors.set(key, errorText(error) || this.#noError);
    } catch ({ status }) {
      if (status === 404) {
        this.#errors.set(key, this.#noRecord);
      } else {
        this.#errors.delete(key);
        this.#retryAt = performance.now() + RETRY_MS;
      }
    }
    this.#reads--;
    this.#onChange();
    this.request(this.#waiting);
  }
}

function keyOf({ id, generation, attempt, status }) {
  return [id, generation, attempt, status].join(" ");
}
