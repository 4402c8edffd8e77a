/** Where the token of a watch comes from: a string, or a function of the page that is called whenever one is needed. */

import { retryDelayMs } from "./backoff.js";
import { readClaims } from "./token.js";

const RENEW_BEFORE_MS = 60_000; // before a token expires
const MIN_LIFETIME_MS = 10_000; // of a token, whose end by the user's clock may be past
const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_HIDDEN_FAILURES = 1; // after which no token is requested while the page is hidden
const NO_TOKEN = { code: "no_token", message: "No access at the moment; you may have to log in again." };

export class TokenSource {
  #source;
  #onToken;
  #onError;
  #failures = 0; // to get a token that works, in a row
  #requests = 0; // the answer to an earlier one than the last is ignored
  #closing = new AbortController();
  #timer;

  /**
   * @param {string | (() => string | Promise<string>)} source
   * @param {(token: string) => ?{code: string, message: string}} onToken called with each token; returns an error if the
   *   token does not fit
   * @param {(error: {code: string, message: string, cause?: Error}) => void} onError called when no token fits;
   *   a function is called again later
   */
  constructor(source, onToken, onError) {
    this.#onToken = onToken;
    this.#onError = onError;
    const options = { signal: this.#closing.signal, capture: true };
    addEventListener("visibilitychange", () => this.#failures && this.#schedule(0), options);
    this.replace(source);
  }

  /** Whether another token can be had. */
  get isRenewable() {
    return typeof this.#source === "function";
  }

  replace(source) {
    this.#source = source;
    this.#requests++;
    this.#schedule(0);
  }

  /** Get another token, because the server refuses the last one; return how often that was necessary in a row. */
  retry() {
    this.#schedule(retryDelayMs(this.#failures++));
    return this.#failures;
  }

  /** Called when the server accepts the last token, which expires at this time by the server's clock. */
  onAccepted(token, now) {
    this.#failures = 0;
    const { exp } = readClaims(token);
    if (!this.isRenewable || !exp) return;
    const lifetimeMs = Math.max(exp * 1000 - now, MIN_LIFETIME_MS);
    this.#schedule(Math.min(Math.max(lifetimeMs / 2, lifetimeMs - RENEW_BEFORE_MS), MAX_TIMER_MS));
  }

  close() {
    this.#closing.abort();
    this.#requests++;
    clearTimeout(this.#timer);
  }

  #schedule(delayMs) {
    clearTimeout(this.#timer);
    if (!this.#closing.signal.aborted) this.#timer = setTimeout(() => this.#get(), delayMs);
  }

  async #get() {
    if (document.hidden && this.#failures > MAX_HIDDEN_FAILURES) return; // until the page is visible
    const request = ++this.#requests;
    let token, error;
    try {
      token = this.isRenewable ? await this.#source() : this.#source;
    } catch (cause) {
      error = { ...NO_TOKEN, cause };
    }
    if (request !== this.#requests) return;
    error ??= this.#onToken(token);
    if (!error) return;
    this.#onError(error);
    if (this.isRenewable) this.retry();
  }
}
