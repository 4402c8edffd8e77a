/** When a list is polled: at regular intervals, and less often after failures. */

import { pollDelayMs } from "./backoff.js";

export class Poller {
  polledAt = 0; // the server's time of the last poll; 0 if it failed, or none is needed
  failures = 0; // in a row
  #poll;
  #timer;
  #closed = false;

  /** @param {() => Promise<void>} poll called when the next poll is due */
  constructor(poll) {
    this.#poll = poll;
    this.#schedule();
  }

  fail() {
    this.polledAt = 0;
    this.failures++;
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #schedule() {
    this.#timer = setTimeout(async () => {
      await this.#poll();
      if (!this.#closed) this.#schedule();
    }, pollDelayMs(this.failures));
  }
}
