/**
 * The session of an operator: a token for all jobs, from an API key or, where the submitter is open, without one.
 *
 * The token is kept for the life of the tab; the key is not kept. A token is renewed with itself before it expires. A new
 * tab goes on with the session of another one.
 */

import { ApiError, request } from "/assets/api.js";
import { SessionTabs } from "/assets/session-tabs.js";
import { readClaims } from "/assets/token.js";

const KEY = "headway-dashboard"; // of the session in a tab's storage, and of the last sign-out in that of all tabs
const OPERATOR_SCOPE = "list watch cancel details operate";
const READER_SCOPE = "list details";
const ANONYMOUS = "anyone"; // the server's name of callers without a key
const TTL_S = 3600;
const RENEW_SHARE = 0.5; // of a token's lifetime, after which it is renewed
const MIN_RENEWAL_MS = 1000;
const RETRY_MS = 30_000;
const MIN_INTERVAL_MS = 5000; // between two tokens, if the server refuses the first one
const SESSION_ENDED = "Your session has ended; sign in again.";
const REFUSALS = new Set([401, 403]);

export class Session {
  /** The token, null while no operator is signed in. */
  token = null;
  #expiresAt = 0; // by this computer's clock, in ms
  #renewAt = 0;
  #since = 0; // when the operator has signed in, by this computer's clock
  #receivedAt = -Infinity; // when the last token was received, by the monotonic clock
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
    addEventListener("pageshow", () => this.#onShown());
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
    const stored = read("sessionStorage");
    if (isValid(stored)) return this.#enter(stored);
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

  /** End the session, also in other tabs, and in pages that the operator has left. */
  signOut() {
    write("localStorage", Date.now());
    this.#tabs.signOut();
    this.#end("closed");
  }

  /**
   * Return a token, a new one if the last one has expired, or was refused and is not quite new.
   *
   * @param {string} [refused] the token that the server has refused
   * @throws {ApiError} the session has ended, or no token can be had now
   */
  async current(refused) {
    const isRefused = refused === this.token && performance.now() - this.#receivedAt >= MIN_INTERVAL_MS;
    if (this.token && (isRefused || Date.now() >= this.#expiresAt)) await this.#renew();
    if (!this.token) throw new ApiError(SESSION_ENDED, { status: 401, code: "session_ended" });
    return this.token;
  }

  /** Return the source of a watch's tokens: the watch asks again when its last token expires or is refused. */
  tokens() {
    let last;
    return async () => (last = await this.current(last));
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
    this.#receivedAt = performance.now();
    const { iat, exp } = readClaims(token);
    const expiresAt = Date.now() + (exp > iat ? Math.min(exp - iat, TTL_S) : TTL_S) * 1000;
    const since = former ? this.#since : Math.max(Date.now(), read("localStorage") + 1); // the clock may have been set back
    if (this.token === former) this.#enter({ token, expiresAt, since }); // otherwise it has ended
  }

  #takeOver(session) {
    if (!this.token && isValid(session)) this.#enter(session);
  }

  #enter({ token, expiresAt, since }) {
    const before = this.token && this.canOperate;
    this.token = token;
    this.#expiresAt = expiresAt;
    this.#since = since;
    this.#renewAt = Date.now() + (expiresAt - Date.now()) * RENEW_SHARE;
    write("sessionStorage", { token, expiresAt, since });
    this.#tabs.share({ token, expiresAt, since });
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

  /** End the session if the operator has signed out after leaving the page, which the browser has kept. */
  #onShown() {
    if (this.token && this.#since <= read("localStorage")) this.#end("closed");
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
    write("sessionStorage", null);
    this.#onChange(event, reason);
  }
}

/** Return whether a session of this tab's past or of another tab may go on: none may that began before the last sign-out. */
function isValid(session) {
  return session?.expiresAt > Date.now() && session.since > read("localStorage") && Boolean(readClaims(session.token)?.filter);
}

function read(storage) {
  try {
    return JSON.parse(globalThis[storage].getItem(KEY));
  } catch {
    return null; // storage is unavailable or contains something else
  }
}

function write(storage, value) {
  try {
    if (value) globalThis[storage].setItem(KEY, JSON.stringify(value));
    else globalThis[storage].removeItem(KEY);
  } catch {
    // Storage is unavailable: the session lasts until the page is reloaded.
  }
}
