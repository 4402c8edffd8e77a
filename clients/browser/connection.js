/**
 * A connection to one notifier that falls back to other transports where a proxy blocks WebSockets.
 *
 * The transports are tried from best to worst; the next one starts when the one before it fails or is slow. The best
 * one that receives a hello becomes active. It stays active until a better one receives a hello, so no update is missed
 * while a fallback is replaced.
 */

import { EventStreamTransport, LongPollTransport, WebSocketTransport } from "./transports.js";

const TRANSPORTS = [WebSocketTransport, EventStreamTransport, LongPollTransport]; // a transport's index is its rank
const MAX_RANK = TRANSPORTS.length - 1;
const FALLBACK_DELAY_MS = [1_500, 1_000, 8_000]; // by rank: before the next transport is tried as well
const HELLO_TIMEOUT_MS = 8_000;
const RECONNECT_BACKOFF_MS = { base: 250, max: 10_000 };
const UPGRADE_BACKOFF_MS = { base: 15_000, max: 240_000 }; // before better transports are tried again
const ORIGIN_RETRY_MS = 60_000; // after the origin seems to be refused: the cause may have been a proxy
const PERMANENT_CODES = new Set([1008, 1009, 413, 422]); // the same request would be refused again
const RETRY_LATER_CODES = new Set([1012, 1013, 503]); // the server works and asks clients to come back later
const OVERLOAD_CODES = new Set([1013, 503]);
const OVERLOAD_FAILURES = 5; // an overload backs off as if so many attempts had failed
const MAX_WEBSOCKET_FAILURES = 3; // if WebSockets have worked before: a restart is more likely than a new proxy

export class FallbackConnection {
  #url;
  #registry;
  #onUpdate;
  #transports = new Map(); // by rank: the active transport, and those without a hello yet
  #activeRank = null;
  #firstRank = 0; // the rank that a round starts with
  #lastRank = 0; // the worst rank opened in this round
  #round = 0;
  #failures = 0; // rounds since the last hello
  #upgradeAttempts = 0;
  #connectedOnce = false;
  #webSocketWorked = false;
  #timer; // of the next round, or of the next upgrade attempt

  /**
   * Open a connection.
   *
   * @param {string} url the notifier's public base URL
   * @param {{jobs: object[]}} registry the watched jobs
   * @param {(update: object) => void} onUpdate called with `{job}`, `{error}`, or `{state}` with optional `detail`,
   *   `now` (the server's time, in ms), `confirmed` (the server's time at its last sign of life, Infinity if it repeats
   *   none), `refusal` (an error) and `final` (no further attempt follows)
   */
  constructor(url, registry, onUpdate) {
    this.#url = url;
    this.#registry = registry;
    this.#onUpdate = onUpdate;
    addEventListener("online", this.#restart);
    this.#startRound();
  }

  subscribe(jobs) {
    for (const { transport } of this.#transports.values()) transport.subscribe(jobs);
  }

  unsubscribe(job) {
    for (const { transport } of this.#transports.values()) transport.unsubscribe(job);
  }

  cancel(job) {
    this.#transports.get(this.#activeRank)?.transport.cancel(job);
  }

  close() {
    removeEventListener("online", this.#restart);
    this.#closeAll();
  }

  #startRound = () => {
    this.#round++;
    this.#lastRank = this.#firstRank;
    this.#openTransport(this.#firstRank);
  };

  /** Called when the network is back: reconnect without delay, also where the old connection still looks open. */
  #restart = () => {
    const wasActive = this.#activeRank !== null;
    this.#closeAll();
    this.#firstRank = this.#failures = this.#upgradeAttempts = 0;
    this.#startRound();
    if (wasActive) this.#onUpdate({ state: "reconnecting" });
  };

  #openTransport(rank) {
    const onMessage = (message) => this.#onMessage(rank, message);
    const onClose = (detail) => this.#onClose(rank, detail);
    const transport = new TRANSPORTS[rank](this.#url, this.#registry, { onMessage, onClose });
    const timers = [
      setTimeout(() => this.#activeRank === null && this.#openNext(rank), FALLBACK_DELAY_MS[rank]),
      setTimeout(onClose, HELLO_TIMEOUT_MS, { code: 1006, reason: "The server sent no hello in time." }),
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
    else this.#onUpdate(update);
  }

  /** Called when a transport receives a hello. An open socket proves nothing: a proxy accepts it without a server. */
  #onHello(rank, { now, silence_s: silence }) {
    if (rank !== this.#activeRank) this.#activate(rank);
    const time = Date.parse(now);
    this.#onUpdate({ state: "live", now: time, confirmed: silence ? time : Infinity });
  }

  #activate(rank) {
    this.#transports.get(rank).timers.forEach(clearTimeout);
    for (const other of [...this.#transports.keys()]) if (other > rank) this.#closeTransport(other);
    this.#activeRank = this.#firstRank = rank;
    this.#failures = 0;
    this.#connectedOnce = true;
    this.#webSocketWorked ||= rank === 0;
    clearTimeout(this.#timer);
    if (rank === 0) this.#upgradeAttempts = 0;
    else this.#scheduleUpgrade();
    for (const job of this.#registry.jobs) if (job.cancelling) this.cancel(job);
  }

  #scheduleUpgrade() {
    const delayMs = backoff(UPGRADE_BACKOFF_MS, this.#upgradeAttempts++) * (1 - Math.random() / 4);
    this.#timer = setTimeout(() => {
      for (let rank = 0; rank < this.#activeRank; rank++) if (!this.#transports.has(rank)) this.#openTransport(rank);
      this.#scheduleUpgrade();
    }, delayMs);
  }

  #onClose(rank, detail) {
    this.#closeTransport(rank);
    if (this.#activeRank !== null && rank !== this.#activeRank) return;
    if (PERMANENT_CODES.has(detail.code)) this.#refuse(detail);
    else if (rank === this.#activeRank || this.#shouldRetry(rank, detail)) this.#reconnect(detail);
    else if (!this.#openNext(rank) && !this.#transports.size) this.#onRoundFailed(detail);
  }

  /** Return whether to retry the same transport, because another one would fail as well. */
  #shouldRetry(rank, { code }) {
    const likelyRestart = rank === 0 && this.#webSocketWorked && this.#failures < MAX_WEBSOCKET_FAILURES;
    return RETRY_LATER_CODES.has(code) || likelyRestart;
  }

  #reconnect(detail) {
    this.#closeAll();
    if (OVERLOAD_CODES.has(detail.code)) this.#failures = Math.max(this.#failures, OVERLOAD_FAILURES);
    this.#timer = setTimeout(this.#startRound, Math.random() * backoff(RECONNECT_BACKOFF_MS, this.#failures++));
    this.#onUpdate({ state: "reconnecting", detail });
  }

  /**
   * Called when every transport has failed.
   *
   * A browser hides from a page why a server refused its origin, so a page that never connected checks for that case.
   */
  async #onRoundFailed(detail) {
    const round = this.#round;
    this.#firstRank = 0;
    const originRefused = !this.#connectedOnce && (await isOriginRefused(this.#url));
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

function backoff({ base, max }, failures) {
  return Math.min(max, base * 2 ** failures);
}

/** Return whether a server responds at the URL, but CORS hides its responses from this page. */
async function isOriginRefused(url) {
  const responds = (mode) => fetch(`${url}/live`, { mode, cache: "no-store" }).then(() => true, () => false);
  return !(await responds("cors")) && (await responds("no-cors"));
}
