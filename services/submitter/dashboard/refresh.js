/** Reads data again every few seconds while the page is visible, and at once when it becomes visible again. */

const INTERVAL_MS = 5000;

export class Refresh {
  #read;
  #show;
  #intervalMs;
  #reads = 0; // only the answer to the last one counts
  #timer;
  #closing = new AbortController();

  /**
   * @param {() => Promise<object>} read
   * @param {(data: ?object, error: ?Error) => void} show called with the data, or with the reason why it is missing now
   * @param {number} [intervalMs] between an answer and the next request
   */
  constructor(read, show, intervalMs = INTERVAL_MS) {
    this.#read = read;
    this.#intervalMs = intervalMs;
    this.#show = show;
    document.addEventListener("visibilitychange", () => this.now(), { signal: this.#closing.signal });
    this.now();
  }

  /** Read the data now. */
  async now() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#closing.signal.aborted) return;
    const read = ++this.#reads;
    const [data, error] = await this.#read().then((value) => [value, null], (reason) => [null, reason]);
    if (read !== this.#reads || this.#closing.signal.aborted) return;
    try {
      this.#show(data, error);
    } finally {
      this.#timer = setTimeout(() => this.now(), this.#intervalMs);
    }
  }

  close() {
    clearTimeout(this.#timer);
    this.#closing.abort();
  }
}
