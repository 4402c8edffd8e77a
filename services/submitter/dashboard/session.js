/**
 * The session of an operator: a token for all jobs, from an API key or, where the submitter is open, without one.
 *
 * The token is kept for the life of the tab; the key is not kept. A token is renewed with itself before it expires. A new
 * tab goes on with the session of another one.
 */

import { ApiError, request } from "/assets/api.js";
import { SessionTabs } from "/assets/session-tabs.js";
import { readClaims } from "/assets/token.js";

const KEY = "headway-dashboard";
const OPERATOR_SCOPE = "list watch cancel details operate";
const READER_SCOPE = "list details";
const ANONYMOUS = "anyone"; // the server's name of callers without a key
const TTL_S = 3600;
const RENEW_SHARE = 0.5; // of a token's lifetime, after which it is renewed
const MIN_RENEWAL_MS = 1000;
const RETRY_MS = 30_000;
const SESSION_ENDED = "Your session has ended; sign in again.";
const REFUSALS = new Set([401, 403]);

export class Session {
  /** The token, null while no operator is signed in. */
  token = null;
  #expiresAt = 0; // by this computer's clock, in ms
  #renewAt = 0;
  #onChange;
  #renewal = null; // the request for the next token, for all that wait for it
  #timer;
  #tabs = new SessionTabs({ onSession: (session) => this.#takeOver(session), onSignOut: () => this.token && this.#end("closed") });

  /**
   * @param {(event: "opened" | "expired" | "closed", reason?: string) => void} onChange called when the session has begun,
   *   or with other rights than before, and when it has ended: why it has expired is for the operator
   */
  constructor(onChange) {
    this.#onChange = onChange;
    document.addEventListener("visibilitychange", () => this.#onVisible());
  }

  /** Whether the operator may act on jobs. */
  get canOperate() {
    return (this.#claims.scope ?? "").split(" ").includes("operate");
  }

  /** The name of the API key, "" if none was needed. */
  get name() {
    const { by = ANONYMOUS } = this.#claims;
    return by === ANONYMOUS ? "" : by;
  }

  get #claims() {
    return readClaims(this.token) ?? {};
  }

  /**
   * Go on with the token of this tab or of another one, or get one where no key is needed; otherwise there is no token.
   *
   * @throws {ApiError} the server does not answer
   */
  async resume() {
    const stored = read();
    if (stored) return this.#enter(stored);
    try {
      await this.#request(OPERATOR_SCOPE);
    } catch (error) {
      if (error.status !== 401) throw error;
      await this.#tabs.ask(); // a session that is answered is taken over
    }
  }

  /**
   * Sign in with an API key. A key without the role `operate` shows the dashboard, but permits no actions.
   *
   * @throws {ApiError} the key is not accepted, or the server does not answer
   */
  signIn(key) {
    return this.#getToken(OPERATOR_SCOPE, key);
  }

  /** End the session, also in other tabs. */
  signOut() {
    this.#tabs.signOut();
    this.#end("closed");
  }

  /**
   * Return a token, a new one if the last one has expired or was refused.
   *
   * @param {string} [refused] the token that the server has refused
   * @throws {ApiError} the session has ended, or no token can be had now
   */
  async current(refused) {
    if (this.token && (refused === this.token || Date.now() >= this.#expiresAt)) await this.#renew();
    if (!this.token) throw new ApiError(SESSION_ENDED, { status: 401, code: "session_ended" });
    return this.token;
  }

  /** Get a token with a key, or with the last token; one that only reads, where no other is permitted. */
  async #getToken(scope, bearer) {
    try {
      await this.#request(scope, bearer);
    } catch (error) {
      if (error.status !== 403 || scope === READER_SCOPE) throw error;
      await this.#request(READER_SCOPE, bearer);
    }
  }

  async #request(scope, bearer) {
    const former = this.token;
    const body = { filter: {}, scope, ttl_s: TTL_S };
    const { token } = await request("/tokens", { method: "POST", body, token: bearer });
    const { iat, exp } = readClaims(token);
    if (this.token === former) this.#enter({ token, expiresAt: Date.now() + (exp - iat) * 1000 }); // otherwise it has ended
  }

  #takeOver(session) {
    if (!this.token && isValid(session)) this.#enter(session);
  }

  #enter({ token, expiresAt }) {
    const before = this.token && this.canOperate;
    this.token = token;
    this.#expiresAt = expiresAt;
    this.#renewAt = Date.now() + (expiresAt - Date.now()) * RENEW_SHARE;
    write({ token, expiresAt });
    this.#tabs.share({ token, expiresAt });
    this.#schedule(Math.max(this.#renewAt - Date.now(), MIN_RENEWAL_MS));
    if (before !== this.canOperate) this.#onChange("opened");
  }

  #schedule(delayMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#renew().catch(() => {}), delayMs); // what needs a token reports why there is none
  }

  /** Renew the token when its time has passed while the tab or the computer slept, where timers do not run. */
  #onVisible() {
    if (this.token && !document.hidden && Date.now() >= this.#renewAt) this.#schedule(0);
  }

  #renew() {
    this.#renewal ??= this.#replaceToken().finally(() => {
      this.#renewal = null;
    });
    return this.#renewal;
  }

  /** Renew the token; if that is refused, the session ends. */
  async #replaceToken() {
    try {
      await this.#getToken(this.canOperate ? OPERATOR_SCOPE : READER_SCOPE, this.token);
    } catch (error) {
      if (REFUSALS.has(error.status)) return this.#end("expired", error.code === "token_expired" ? SESSION_ENDED : error.message);
      this.#schedule(RETRY_MS);
      throw error;
    }
  }

  #end(event, reason) {
    clearTimeout(this.#timer);
    this.token = null;
    this.#tabs.share(null);
    write(null);
    this.#onChange(event, reason);
  }
}

function isValid(session) {
  return session?.expiresAt > Date.now() && Boolean(readClaims(session.token)?.filter);
}

function read() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(KEY));
    return isValid(stored) ? stored : null;
  } catch {
    return null; // storage is unavailable or contains something else
  }
}

function write(session) {
  try {
    if (session) sessionStorage.setItem(KEY, JSON.stringify(session));
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is unavailable: the session lasts until the page is reloaded.
  }
}
