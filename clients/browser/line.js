/**
 * The line to one notifier: a WebSocket, or what a proxy lets through instead, kept up for as long as it is wanted.
 *
 * The transports are tried from the best to the worst, each when the one before it fails or takes long. The best that is
 * greeted by the server is used, and kept until a better one is greeted, so nothing is missed on the way back.
 */

import { Poll, Socket, Stream } from "./transports.js";

const TRANSPORTS = [Socket, Stream, Poll]; // ranked from the best to the worst
const WORST = TRANSPORTS.length - 1;
const PATIENCE_MS = [1_500, 1_000, 8_000]; // after which the next is tried, too
const HELLO_TIMEOUT_MS = 8_000; // after which one is given up
const BACKOFF_MS = { base: 250, cap: 10_000 };
const RETURN_MS = { base: 15_000, cap: 240_000 }; // until the better transports are tried again
const FOREIGN_MS = 60_000; // until a server that seems to refuse this page is tried again: it may be a proxy's mistake
const REFUSALS = new Set([1008, 1009, 413, 422]); // what is sent again would be refused again
const WAITS = new Set([1012, 1013, 503]); // the server is there, and asks to come back later
const OVERLOADED = new Set([1013, 503]);
const OVERLOADED_FAILURES = 5; // whose wait an overloaded server is given
const TRUSTED_FAILURES = 3; // of a WebSocket that has worked: rather has the server restarted than a proxy come

export class Line {
  #url;
  #desk;
  #tell;
  #tries = new Map(); // by rank: the transport in use and those being tried
  #used = null; // the rank of the one in use
  #first = 0; // the rank that a round begins with
  #last = 0; // the rank that this round has come to
  #round = 0;
  #failures = 0; // rounds since the last hello
  #returns = 0; // tries to leave a fallback
  #known = false; // whether the server has ever said hello
  #trusted = false; // whether it has over a WebSocket
  #timer; // of the next round, or of the next try to leave a fallback

  /**
   * @param {string} url the notifier's public base URL
   * @param {{jobs: object[]}} desk which jobs are watched
   * @param {(news: object) => void} tell `{job}`, `{error}`, or `{state}` with a `detail`, the clock's `offset`, a `refusal`
   */
  constructor(url, desk, tell) {
    this.#url = url;
    this.#desk = desk;
    this.#tell = tell;
    addEventListener("online", this.#renew);
    this.#begin();
  }

  ask(jobs) {
    for (const { transport } of this.#tries.values()) transport.ask(jobs);
  }

  drop(job) {
    for (const { transport } of this.#tries.values()) transport.drop(job);
  }

  cancel(job) {
    this.#tries.get(this.#used)?.transport.cancel(job);
  }

  close() {
    removeEventListener("online", this.#renew);
    this.#clear();
  }

  #begin = () => {
    this.#round++;
    this.#last = this.#first;
    this.#try(this.#first);
  };

  /** The network changed: there is nothing to wait for, and an open line may be dead without either end knowing. */
  #renew = () => {
    const live = this.#used !== null;
    this.#clear();
    this.#first = this.#failures = this.#returns = 0;
    this.#begin();
    if (live) this.#tell({ state: "reconnecting" });
  };

  #try(rank) {
    const hear = (message) => this.#hear(rank, message);
    const lost = (detail) => this.#lost(rank, detail);
    const transport = new TRANSPORTS[rank](this.#url, this.#desk, { hear, lost });
    const timers = [
      setTimeout(() => this.#used === null && this.#next(rank), PATIENCE_MS[rank]),
      setTimeout(lost, HELLO_TIMEOUT_MS, { code: 1006, reason: "No hello came." }),
    ];
    this.#tries.set(rank, { transport, timers });
  }

  /** Go on to the next transport; tell whether there is one. */
  #next(rank) {
    if (rank !== this.#last || rank === WORST) return false;
    this.#try(++this.#last);
    return true;
  }

  #hear(rank, { hello, ...news }) {
    if (hello) this.#greet(rank, hello);
    else this.#tell(news);
  }

  /** Only a hello proves a server: a proxy opens sockets and streams, too, while nobody is behind it. */
  #greet(rank, { now }) {
    if (rank !== this.#used) this.#use(rank);
    this.#tell({ state: "live", offset: now && Date.parse(now) - Date.now() });
  }

  #use(rank) {
    this.#tries.get(rank).timers.forEach(clearTimeout);
    for (const other of [...this.#tries.keys()]) if (other > rank) this.#drop(other);
    this.#used = this.#first = rank;
    this.#failures = 0;
    this.#known = true;
    this.#trusted ||= rank === 0;
    clearTimeout(this.#timer);
    if (rank === 0) this.#returns = 0;
    else this.#returnLater();
    for (const job of this.#desk.jobs) if (job.cancelling) this.cancel(job);
  }

  #returnLater() {
    const ms = backoff(RETURN_MS, this.#returns++) * (1 - Math.random() / 4);
    this.#timer = setTimeout(() => {
      for (let rank = 0; rank < this.#used; rank++) if (!this.#tries.has(rank)) this.#try(rank);
      this.#returnLater();
    }, ms);
  }

  #lost(rank, detail) {
    this.#drop(rank);
    if (this.#used !== null && rank !== this.#used) return;
    if (REFUSALS.has(detail.code)) this.#refuse(detail);
    else if (rank === this.#used || this.#waits(rank, detail)) this.#again(detail);
    else if (!this.#next(rank) && !this.#tries.size) this.#fail(detail);
  }

  /** Tell whether to come back by the same way, since another would help as little. */
  #waits(rank, { code }) {
    return WAITS.has(code) || (rank === 0 && this.#trusted && this.#failures < TRUSTED_FAILURES);
  }

  #again(detail) {
    this.#clear();
    if (OVERLOADED.has(detail.code)) this.#failures = Math.max(this.#failures, OVERLOADED_FAILURES);
    this.#timer = setTimeout(this.#begin, Math.random() * backoff(BACKOFF_MS, this.#failures++));
    this.#tell({ state: "reconnecting", detail });
  }

  /** A server that lets no page of this origin in says so to nobody, so a page that it never greeted finds out. */
  async #fail(detail) {
    const round = this.#round;
    this.#first = 0;
    const foreign = !this.#known && (await isForeign(this.#url));
    if (round !== this.#round) return;
    if (!foreign) return this.#again(detail);
    this.#timer = setTimeout(this.#begin, FOREIGN_MS);
    const message = `The notifier at ${this.#url} does not allow pages of ${origin}: add it to ALLOWED_ORIGINS.`;
    this.#tell({ state: "refused", detail, refusal: { code: "origin_not_allowed", message } });
  }

  #refuse(detail) {
    this.close();
    const message = detail.reason || "The server refused the connection.";
    this.#tell({ state: "refused", detail, refusal: { code: "refused", message }, final: true });
  }

  #drop(rank) {
    const { transport, timers } = this.#tries.get(rank);
    timers.forEach(clearTimeout);
    transport.close();
    this.#tries.delete(rank);
  }

  #clear() {
    this.#round++;
    clearTimeout(this.#timer);
    for (const rank of [...this.#tries.keys()]) this.#drop(rank);
    this.#used = null;
  }
}

function backoff({ base, cap }, failures) {
  return Math.min(cap, base * 2 ** failures);
}

/** Tell whether somebody answers at the URL, but nothing that this page may read. */
async function isForeign(url) {
  const answers = (mode) => fetch(`${url}/live`, { mode, cache: "no-store" }).then(() => true, () => false);
  return !(await answers("cors")) && (await answers("no-cors"));
}
