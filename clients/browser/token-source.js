/** Where the token of a list comes from: a string, or a function of the page that is called whenever one is needed. */

import { reconnectDelayMs } from "./backoff.js";
import { readClaims } from "./token.js";

const RENEW_BEFORE_MS = 60_000; // before a token expires
const MIN_LIFETIME_MS = 10_000; // of a token, whose end by the user's clock may be past
const MAX_TIMER_MS = 2 ** 31 - 1;

export class TokenSource {
  #source;
  #onToken;
  #onError;
  #failures = 0; // to get a token that works, in a row
  #timer;

  /**
   * @param {string | (() => string | Promise<string>)} source
   * @param {(token: string) => void} onToken called with each token
   * @param {(error: {code: string, message: string}) => void} onError called when there is no token; the function is called
   *   again later
   */
  constructor(source, onToken, onError) {
    this.#onToken = onToken;
    this.#onError = onError;
    this.replace(source);
  }

  /** Whether another token can be had. */
  get isRenewable() {
    return typeof this.#source === "function";
  }

  replace(source) {
    this.#source = source;
    this.#schedule(0);
  }

  /** Get another token, because the server refuses the last one. */
  retry() {
    this.#schedule(reconnectDelayMs(this.#failures++));
  }

  /** Called when the server has accepted the last token, which expires at this time by the server's clock. */
  onAccepted(token, now) {
    this.#failures = 0;
    if (!this.isRenewable) return;
    const lifetimeMs = Math.max(readClaims(token).exp * 1000 - now, MIN_LIFETIME_MS);
    this.#schedule(Math.min(Math.max(lifetimeMs / 2, lifetimeMs - RENEW_BEFORE_MS), MAX_TIMER_MS));
  }

  close() {
    clearTimeout(this.#timer);
    this.#onToken = this.#onError = () => {};
  }

  #schedule(delayMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#get(), delayMs);
  }

  async #get() {
    try {
      this.#onToken(this.isRenewable ? await this.#source() : this.#source);
    } catch (error) {
      this.#onError({ code: "no_token", message: error.message });
      this.retry();
    }
  }
}
