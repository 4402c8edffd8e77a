/** Reads data every few seconds while the page is visible, once for all that show it. */

const INTERVAL_MS = 5000;

export class Refresh {
  /** The last data, null before the first. */
  data = null;
  /** Why the data is not current, null if it is. */
  error = null;
  #read;
  #intervals = new Map(); // in ms, by the function that shows the data
  #reads = 0; // only the answer to the last one counts
  #readAt = -Infinity; // when it came
  #dueAt = Infinity; // when the next request begins; -Infinity while one is on its way
  #timer;

  /** @param {() => Promise<object>} read */
  constructor(read) {
    this.#read = read;
  }

  /**
   * Show the data, which is read from now on, and return a function that ends this.
   *
   * @param {(data: ?object, error: ?Error) => void} show called after each request, and at first with what is known already
   * @param {number} [intervalMs] at most, between an answer and the next request
   */
  subscribe(show, intervalMs = INTERVAL_MS) {
    document.addEventListener("visibilitychange", this);
    addEventListener("online", this);
    this.#intervals.set(show, intervalMs);
    if (this.data || this.error) this.#call(show);
    const dueAt = this.#readAt + intervalMs;
    if (dueAt < this.#dueAt) this.#schedule(Math.max(0, dueAt - performance.now()));
    return () => {
      this.#intervals.delete(show);
      if (this.#intervals.size) return;
      document.removeEventListener("visibilitychange", this);
      removeEventListener("online", this);
    };
  }

  handleEvent() {
    this.now();
  }

  /** Read the data after a delay. An answer that comes earlier is not used. */
  after(delayMs) {
    this.#reads++;
    this.#schedule(delayMs);
  }

  /** Read the data now. */
  async now() {
    clearTimeout(this.#timer);
    this.#dueAt = Infinity;
    if (document.hidden || !this.#intervals.size) return;
    this.#dueAt = -Infinity;
    const read = ++this.#reads;
    const [data, error] = await this.#read().then((value) => [value, null], (reason) => [this.data, reason]);
    if (read !== this.#reads) return;
    Object.assign(this, { data, error });
    this.#readAt = performance.now();
    this.#schedule(Math.min(...this.#intervals.values(), error ? INTERVAL_MS : Infinity));
    for (const show of this.#intervals.keys()) this.#call(show);
  }

  #schedule(delayMs) {
    clearTimeout(this.#timer);
    this.#dueAt = performance.now() + delayMs;
    this.#timer = setTimeout(() => this.now(), delayMs);
  }

  /** Call a function by itself, so that its error does not keep others from showing the data. */
  #call(show) {
    queueMicrotask(() => this.#intervals.has(show) && show(this.data, this.error));
  }
}
