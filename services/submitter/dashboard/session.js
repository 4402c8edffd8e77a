/**
 * The session of an operator: a token for all jobs, from an API key or, where the submitter is open, without one.
 *
 * The token is kept for the life of the tab; the key is not kept. A token is renewed with itself before it expires.
 */

import { ApiError, request } from "/assets/api.js";
import { readClaims } from "/assets/token.js";

const KEY = "headway-dashboard";
const OPERATOR_SCOPE = "list watch cancel details operate";
const READER_SCOPE = "list details";
const TTL_S = 3600;
const RENEW_SHARE = 0.5; // of a token's lifetime, after which it is renewed
const RETRY_MS = 30_000;

export class Session {
  /** The token, null before the operator has signed in. */
  token = null;
  #expiresAt = 0; // by this computer's clock, in ms
  #onChange;
  #timer;

  /** @param {() => void} onChange called when the operator has signed in, has signed out, or the session has ended */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Whether the operator may act on jobs. */
  get canOperate() {
    return this.#scope.includes("operate");
  }

  /** The name of the API key, "" in open mode. */
  get name() {
    return readClaims(this.token)?.by ?? "";
  }

  get #scope() {
    return (readClaims(this.token)?.scope ?? "").split(" ");
  }

  /** Go on with the token of this tab, or get one where no key is needed; otherwise the operator must sign in. */
  async resume() {
    const stored = read();
    if (stored) this.#enter(stored);
    else await this.#request(OPERATOR_SCOPE).catch(ignoreRefusal);
  }

  /**
   * Sign in with an API key. A key without the role `operate` shows the dashboard, but permits no actions.
   *
   * @throws {ApiError} the key is not accepted, or the server does not answer
   */
  async signIn(key) {
    try {
      await this.#request(OPERATOR_SCOPE, key);
    } catch (error) {
      if (error.status !== 403) throw error;
      await this.#request(READER_SCOPE, key);
    }
  }

  /** End the session. */
  signOut() {
    this.#clear();
    this.#onChange();
  }

  /** Return a token, renewed if the last one has expired or was refused; the session may end meanwhile. */
  async current(refused) {
    if (refused === this.token || Date.now() >= this.#expiresAt) await this.#renew();
    return this.token;
  }

  async #request(scope, bearer) {
    const body = { filter: {}, scope, ttl_s: TTL_S };
    const { token } = await request("/tokens", { method: "POST", body, token: bearer });
    this.#enter({ token, expiresAt: Date.now() + TTL_S * 1000 });
  }

  #enter({ token, expiresAt }) {
    const isNew = !this.token;
    this.token = token;
    this.#expiresAt = expiresAt;
    write({ token, expiresAt });
    this.#schedule((expiresAt - Date.now()) * RENEW_SHARE);
    if (isNew) this.#onChange();
  }

  #schedule(delayMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#renew(), delayMs);
  }

  /** Renew the token; if that is refused, the session ends. */
  async #renew() {
    try {
      await this.#request(this.canOperate ? OPERATOR_SCOPE : READER_SCOPE, this.token);
    } catch (error) {
      if (error.status === 401 || error.status === 403) return this.signOut();
      this.#schedule(RETRY_MS);
    }
  }

  #clear() {
    clearTimeout(this.#timer);
    this.token = null;
    this.#expiresAt = 0;
    write(null);
  }
}

function ignoreRefusal(error) {
  if (!(error instanceof ApiError) || error.status !== 401) throw error;
}

function read() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(KEY));
    return stored?.expiresAt > Date.now() && readClaims(stored.token)?.filter ? stored : null;
  } catch {
    return null; // storage is unavailable or contains something else
  }
}

function write(stored) {
  try {
    if (stored) sessionStorage.setItem(KEY, JSON.stringify(stored));
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is unavailable: the session lasts until the page is reloaded.
  }
}
