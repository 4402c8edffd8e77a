/** The server's clock, known from the times that it sends. It does not depend on the user's clock, which may be wrong. */

const MAX_DRIFT_MS = 20; // between two times from the server: more than two clocks drift apart in that time

export class ServerClock {
  #offset; // of the server's clock from this page's monotonic one, in ms

  /** Return the server's time in ms; before the first time from the server, the user's time. */
  now() {
    return performance.now() + (this.#offset ?? performance.timeOrigin);
  }

  /**
   * Adopt a time that the server has sent.
   *
   * It is already past when it arrives: the least delayed of the times is the most exact. A delay looks like a slower
   * clock, so the clock is set back only as far as it may have drifted. A monotonic clock that stood still while the
   * machine slept is put right by the next time.
   */
  synchronize(time) {
    const offset = time - performance.now();
    this.#offset = Math.max(offset, (this.#offset ?? offset) - MAX_DRIFT_MS);
  }
}
