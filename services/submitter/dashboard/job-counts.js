/** The numbers around the list: how many jobs have which status, and how many ended in each of the last 24 hours. */

const HOUR_STATUSES = ["succeeded", "failed", "cancelled"];

export class JobCounts {
  /** How often the numbers were read. */
  version = 0;
  #data;
  #unsubscribe;

  /**
   * @param {object} data what the page shares: of it, the jobs and the kinds
   * @param {() => void} onChange called when the numbers may have changed
   */
  constructor(data, onChange) {
    this.#data = data;
    const onAnswer = () => {
      this.version++;
      onChange();
    };
    this.#unsubscribe = [data.jobs, data.kinds].map((each) => each.subscribe(onAnswer));
  }

  close() {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }

  /** The numbers of all jobs, null before they are known. */
  get about() {
    return this.#data.jobs.data?.about ?? null;
  }

  /** The statistics of all kinds, null before they are known. */
  get kinds() {
    return this.#data.kinds.data?.kinds ?? null;
  }

  /** False while the server says that jobs may be missing. */
  get complete() {
    return this.#data.jobs.data?.complete ?? true;
  }

  /** Whether the server has any job; null before that is known. */
  get hasJobs() {
    const { data } = this.#data.jobs;
    return data && (data.jobs.length > 0 || data.about.waiting > 0 || data.about.running > 0);
  }

  /** Whether no worker runs. A worker of version 0.1 is not in the statistics, but its jobs run. */
  get hasNoWorker() {
    if (!this.kinds || !this.about || this.about.running) return false;
    return this.kinds.every(({ workers }) => !workers);
  }

  /** The hours of a kind, or of all kinds together, the oldest first; null before they are known. */
  hours(kind) {
    const chosen = this.kinds?.filter((each) => !kind || each.kind === kind);
    if (!chosen) return null;
    const sums = new Map();
    for (const hour of chosen.flatMap(({ hours }) => hours)) {
      const sum = sums.get(hour.hour) ?? { hour: hour.hour, submitted: 0, succeeded: 0, failed: 0, cancelled: 0 };
      for (const name of ["submitted", ...HOUR_STATUSES]) sum[name] += hour[name];
      sums.set(hour.hour, sum);
    }
    return [...sums.values()];
  }

  /**
   * Return how many jobs a list with this status would have, null if the server does not count them.
   *
   * @param {import("./job-filter.js").JobFilter} filter the filter of the list that is shown
   * @param {string} status "" for all
   */
  of(filter, status) {
    if (filter.hasOther("kind", "range") || filter.get("group")) return null;
    return status === "" || HOUR_STATUSES.includes(status) ? this.#ofDay(filter, status) : this.#ofActive(filter, status);
  }

  #ofDay(filter, status) {
    const hours = this.hours(filter.kind);
    const range = filter.get("range") || "24h";
    return hours && range === "24h" ? hours.reduce((sum, hour) => sum + hour[status || "submitted"], 0) : null;
  }

  #ofActive(filter, status) {
    const { waiting, running, retrying } = this.about ?? {};
    const range = filter.get("range") || "all";
    if (filter.kind || range !== "all") return null;
    return { queued: retrying === undefined ? waiting : Math.max(0, waiting - retrying), running, retrying }[status] ?? null;
  }
}
