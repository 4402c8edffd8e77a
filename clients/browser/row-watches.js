/** The watches of those jobs on a list that a page shows. They belong to one token of the list. */

export class RowWatches {
  #registry;
  #token;
  #onError;
  #watches = new Map(); // by the job's id

  /**
   * @param {object} registry
   * @param {string} token of the list
   * @param {(id: string, error: {code: string, message: string}) => void} onError called when a job cannot be watched or
   *   cancelled
   */
  constructor(registry, token, onError) {
    this.#registry = registry;
    this.#token = token;
    this.#onError = onError;
  }

  /** Watch these jobs and no others; `jobs` are the newest snapshots. */
  update(jobs) {
    const ids = new Set(jobs.map(({ id }) => id));
    for (const id of [...this.#watches.keys()]) if (!ids.has(id)) this.#remove(id);
    for (const job of jobs) if (!this.#watches.has(job.id)) this.#add(job);
  }

  cancel(job) {
    if (!this.#watches.has(job.id)) this.#add(job);
    this.#registry.cancel(this.#watches.get(job.id).job);
  }

  /** Return the server's time until which the snapshot of a job is known to be current, 0 if the job is not watched. */
  confirmedUntil(id) {
    const watched = this.#watches.get(id);
    return watched ? this.#registry.confirmedUntil(watched.job) : 0;
  }

  close() {
    this.update([]);
  }

  #add(snapshot) {
    const { id } = snapshot;
    const watch = { onError: (error) => this.#onError(id, error) };
    this.#watches.set(id, { watch, job: this.#registry.addWatch({ id, token: this.#token, snapshot }, watch) });
  }

  #remove(id) {
    const { job, watch } = this.#watches.get(id);
    this.#watches.delete(id);
    this.#registry.removeWatch(job, watch);
  }
}
