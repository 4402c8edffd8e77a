/**
 * A connection to one notifier that falls back to other transports where a proxy blocks WebSockets.
 *
 * The transports are tried from best to worst; the next one starts when the one before it fails or is slow. The best
 * one that receives a hello becomes active. It stays active until a better one receives a hello, so no update is missed
 * while a fallback is replaced.
 *
 * A WebSocket that has worked is opened again alone. Many clients lose their connections together when a server restarts,
 * which should not have to serve three requests for each.
 */

import { reconnectDelayMs, upgradeDelayMs } from "./backoff.js";
import { EventStreamTransport, LongPollTransport, WebSocketTransport } from "./transports.js";

const TRANSPORTS = [WebSocketTransport, EventStreamTransport, LongPollTransport]; // a transport's index is its rank
const MAX_RANK = TRANSPORTS.length - 1;
const FALLBACK_DELAY_MS = [1_500, 1_000, 8_000]; // by rank: before the next transport is tried as well
const HELLO_TIMEOUT_MS = 8_000;
const PROVEN_HELLO_TIMEOUT_MS = 4_000; // of a WebSocket that has worked: its path may be frozen, and a new one free
const NO_HELLO = { code: 1006, reason: "The server sent nothing in time.", reconnect_s: 0 }; // the attempt was a delay
const TAKEOVER_MS = 2_000; // to replace the connection of another tab before it counts as lost
const ORIGIN_RETRY_MS = 60_000; // after the origin seems to be refused: the cause may have been a proxy
const PERMANENT_CODES = new Set([1008, 1009, 413, 422]); // the same request would be refused again
const RETRY_LATER_CODES = new Set([1012, 1013, 503]); // the server works and asks clients to come back later
const MAX_WEBSOCKET_FAILURES = 3; // if a WebSocket worked before: a restart is more likely than a new proxy

export class FallbackConnection {
  #url;
  #registry;
  #onUpdate;
  #transports = new Map(); // by rank: the active transport, and those without a hello yet
  #activeRank = null;
  #firstRank = 0; // the rank that a round starts with
  #lastRank = 0; // the worst rank opened in this round
  #provenRank; // of the transport that worked last, here or in the tab that had the connection before
  #round = 0;
  #failures = 0; // rounds since the last hello
  #upgradeAttempts = 0;
  #timer; // of the next round, the next upgrade attempt, or the end of a takeover
  #listeners = new AbortController();

  /**
   * Open a connection.
   *
   * @param {string} url the notifier's public base URL
   * @param {{wantedJobs: object[], lists: object[], connectionUpdate: object}} registry the watched jobs and lists, and
   *   what is known about the connection of another tab that this one replaces
   * @param {(update: object) => void} onUpdate called with `{job}`, `{log}`, `{list}`, `{error}`, or `{state}` with optional `detail`, `now`
   *   (the server's time, in ms), `confirmed` (the server's time at its last sign of life, Infinity if it repeats none),
   *   `rank` (of the transport), `refusal` (an error) and `final` (no further attempt follows); a repeated hello has no
   *   `state`
   */
  constructor(url, registry, onUpdate) {
    this.#url = url;
    this.#registry = registry;
    this.#onUpdate = onUpdate;
    this.#listen({ online: this.#restart, offline: this.#onOffline, visibilitychange: this.#onVisibilityChange });
    this.#listen({ focus: this.check, pageshow: this.check, resume: this.check });
    const { state, rank } = registry.connectionUpdate;
    this.#provenRank = rank;
    this.#firstRank = rank ?? 0;
    if (state === "reconnecting") return this.#scheduleRound({});
    this.#startRound();
    const detail = { code: 1006, reason: "The tab with the connection is gone." };
    if (state === "live") this.#timer = setTimeout(onUpdate, TAKEOVER_MS, { state: "reconnecting", detail });
  }

  subscribe(watched) {
    for (const { transport } of this.#transports.values()) transport.subscribe(watched);
  }

  unsubscribe(watched) {
    for (const { transport } of this.#transports.values()) transport.unsubscribe(watched);
  }

  cancel(job) {
    this.#transports.get(this.#activeRank)?.transport.cancel(job);
  }

  close() {
    this.#listeners.abort();
    this.#closeAll();
  }

  /** Notice a silent connection, although timers may have been late. */
  check = () => {
    this.#transports.get(this.#activeRank)?.transport.checkSilence();
  };

  /** Find out whether the connection still works, because a user looks at it. If it is lost, reconnect without delay. */
  probe() {
    this.check();
    if (this.#transports.size) this.#transports.get(this.#activeRank)?.transport.probe();
    else this.#restart();
  }

  #listen(listeners) {
    const options = { signal: this.#listeners.signal, capture: true };
    for (const [event, listener] of Object.entries(listeners)) addEventListener(event, listener, options);
  }

  #onVisibilityChange = () => document.hidden || this.probe();

  /** Called when the browser has no network. A server on this machine can still be reached, so the attempts go on. */
  #onOffline = () => this.#reconnect({ code: 1006, reason: "The browser is offline." });

  #startRound = () => {
    this.#round++;
    this.#lastRank = this.#firstRank;
    this.#openTransport(this.#firstRank);
  };

  /** Called when the network is back: reconnect without delay, also where the old connection still looks open. */
  #restart = () => {
    const wasActive = this.#activeRank !== null;
    this.#closeAll();
    this.#firstRank = this.#provenRank ?? 0;
    this.#failures = this.#upgradeAttempts = 0;
    this.#startRound();
    if (wasActive) this.#onUpdate({ state: "reconnecting" });
  };

  #openTransport(rank) {
    const onMessage = (message) => this.#onMessage(rank, message);
    const onClose = (detail) => this.#onClose(rank, detail);
    const transport = new TRANSPORTS[rank](this.#url, this.#registry, { onMessage, onClose });
    const openNext = () => this.#activeRank === null && this.#provenRank !== 0 && this.#openNext(rank);
    const timers = [
      setTimeout(openNext, FALLBACK_DELAY_MS[rank]),
      setTimeout(onClose, rank === 0 && this.#provenRank === 0 ? PROVEN_HELLO_TIMEOUT_MS : HELLO_TIMEOUT_MS, NO_HELLO),
    ];
    this.#transports.set(rank, { transport, timers });
  }

  /** Open the transport after this one; return whether that was possible. */
  #openNext(rank) {
    if (rank !== this.#lastRank || rank === MAX_RANK) return false;
    this.#openTransport(++this.#lastRank);
    return true;
  }

  #onMessage(rank, { hello, ...update }) {
    if (hello) this.#onHello(rank, hello);
    else if (!update.error || !this.#registry.tryOtherToken(update.error)) this.#onUpdate(update);
  }

  /** Called when a transport receives a hello. An open socket proves nothing: a proxy accepts it without a server. */
  #onHello(rank, { now, silence_s: silence }) {
    const state = rank !== this.#activeRank && "live";
    if (state) this.#activate(rank);
    const time = Date.parse(now);
    this.#onUpdate({ state, now: time, confirmed: silence ? time : Infinity, rank });
  }

  #activate(rank) {
    this.#transports.get(rank).timers.forEach(clearTimeout);
    for (const other of [...this.#transports.keys()]) if (other > rank) this.#closeTransport(other);
    this.#activeRank = this.#firstRank = this.#provenRank = rank;
    this.#failures = 0;
    clearTimeout(this.#timer);
    if (rank === 0) this.#upgradeAttempts = 0;
    else this.#scheduleUpgrade();
    for (const job of this.#registry.wantedJobs) if (job.cancelling) this.cancel(job);
  }

  #scheduleUpgrade() {
    this.#timer = setTimeout(() => {
      for (let rank = 0; rank < this.#activeRank; rank++) if (!this.#transports.has(rank)) this.#openTransport(rank);
      this.#scheduleUpgrade();
    }, upgradeDelayMs(this.#upgradeAttempts++));
  }

  #onClose(rank, detail) {
    this.#closeTransport(rank);
    if (this.#activeRank !== null && rank !== this.#activeRank) return;
    if (PERMANENT_CODES.has(detail.code) && !this.#registry.dropRejectedJobs()) this.#refuse(detail);
    else if (rank === this.#activeRank || this.#shouldRetry(rank, detail)) this.#reconnect(detail);
    else if (!this.#openNext(rank) && !this.#transports.size) this.#onRoundFailed(detail);
  }

  /** Return whether to retry the same transport, because another one would fail as well. */
  #shouldRetry(rank, { code }) {
    const likelyRestart = rank === 0 && this.#provenRank === 0 && this.#failures < MAX_WEBSOCKET_FAILURES;
    return RETRY_LATER_CODES.has(code) || likelyRestart;
  }

  #reconnect(detail) {
    this.#closeAll();
    this.#scheduleRound(detail);
    this.#onUpdate({ state: "reconnecting", detail });
  }

  #scheduleRound(detail) {
    this.#timer = setTimeout(this.#startRound, reconnectDelayMs(this.#failures++, detail));
  }

  /**
   * Called when every transport has failed.
   *
   * A browser hides from a page why a server refused its origin, so a page that never connected checks for that case.
   */
  async #onRoundFailed(detail) {
    const round = this.#round;
    this.#firstRank = 0;
    const originRefused = this.#provenRank === undefined && (await isOriginRefused(this.#url));
    if (round !== this.#round) return;
    if (!originRefused) return this.#reconnect(detail);
    this.#timer = setTimeout(this.#startRound, ORIGIN_RETRY_MS);
    const message = `The notifier at ${this.#url} does not allow pages of ${origin}: add it to ALLOWED_ORIGINS.`;
    this.#onUpdate({ state: "refused", detail, refusal: { code: "origin_not_allowed", message } });
  }

  #refuse(detail) {
    this.close();
    const message = detail.reason || "The server refused the connection.";
    this.#onUpdate({ state: "refused", detail, refusal: { code: "refused", message }, final: true });
  }

  #closeTransport(rank) {
    const { transport, timers } = this.#transports.get(rank);
    timers.forEach(clearTimeout);
    transport.close();
    this.#transports.delete(rank);
  }

  #closeAll() {
    this.#round++;
    clearTimeout(this.#timer);
    for (const rank of [...this.#transports.keys()]) this.#closeTransport(rank);
    this.#activeRank = null;
  }
}

/** Return whether a server responds at the URL, but CORS hides its responses from this page. */
async function isOriginRefused(url) {
  const responds = (mode) => fetch(`${url}/live`, { mode, cache: "no-store" }).then(() => true, () => false);
  return !(await responds("cors")) && (await responds("no-cors"));
}
