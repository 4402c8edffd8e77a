/** The true errors of jobs whose snapshots hide them from users. They are requested only for rows that are visible. */

import { errorText, hidesError } from "/assets/row-texts.js";

const MAX_REQUESTS = 4; // at once
const MAX_ERRORS = 1000; // that are kept

export class TrueErrors {
  #api;
  #onChange;
  #errors = new Map(); // by the job's id and attempt: the text, "" while it is unknown
  #waiting = []; // the snapshots whose errors will be requested
  #requests = 0;

  /**
   * @param {import("./api.js").Api} api
   * @param {() => void} onChange called when an error has arrived
   */
  constructor(api, onChange) {
    this.#api = api;
    this.#onChange = onChange;
  }

  /** Return the true error of a job in one line, "" while it is unknown. */
  textOf(snapshot) {
    return this.#errors.get(keyOf(snapshot)) ?? "";
  }

  /** Request the errors of these jobs that are hidden and not yet known, and of no others. */
  request(snapshots) {
    this.#waiting = snapshots.filter((snapshot) => hidesError(snapshot) && !this.#errors.has(keyOf(snapshot)));
    while (this.#waiting.length && this.#requests < MAX_REQUESTS) this.#read(this.#waiting.shift());
  }

  async #read(snapshot) {
    this.#requests++;
    if (this.#errors.size >= MAX_ERRORS) this.#errors.clear();
    this.#errors.set(keyOf(snapshot), "");
    try {
      const { error } = await this.#api.live(`/live/jobs/${snapshot.id}/details`);
      if (error) this.#errors.set(keyOf(snapshot), errorText(error));
      this.#onChange();
    } catch {
      // The row shows what users see.
    }
    this.#requests--;
    this.request(this.#waiting);
  }
}

function keyOf({ id, generation, attempt, status }) {
  return `${id} ${generation} ${attempt} ${status}`;
}
