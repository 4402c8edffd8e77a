/**
 * `watchJob()`: one connection per notifier, shared by all watches of all tabs.
 *
 * A snapshot is the complete state of a job, and its version only increases. So lost, repeated or skipped snapshots do
 * no harm, and after a reconnect the server sends the newest one.
 */

import { ServerClock } from "./server-clock.js";
import { openConnection } from "./shared-connection.js";
import { mayCancel, readClaims } from "./token.js";

const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const MAX_TOKEN_LENGTH = 4096; // the server's limit
const TOKEN_REJECTIONS = new Set(["invalid_token", "token_expired"]);
const REJECTIONS = new Set([...TOKEN_REJECTIONS, "too_many_watches"]); // the server does not watch the job

const registries = new Map(); // by the notifier's URL

/**
 * Watch one job until `close()`. The watch continues after the job has finished, because a job can be redriven.
 *
 * No callback is called before this function returns, nor after `close()`.
 *
 * @param {object} options
 * @param {string} options.url the notifier's public base URL
 * @param {string} options.token a watch token
 * @param {(state: "connecting" | "live" | "reconnecting" | "refused", detail?: {code: number, reason: string}) => void}
 *   [options.onConnection] called when the state of the connection changes, with the cause
 * @param {(error: {code: string, message: string}) => void} [options.onError] called when the job cannot be watched
 *   (`invalid_token`, `token_expired`, `too_many_watches`, `refused`, `origin_not_allowed`, or `unknown`: the record is
 *   lost, and the watch continues) or cannot be cancelled (`forbidden`, `unavailable`)
 * @param {(snapshot: object) => void} onSnapshot called with each newer snapshot, first with the last one that the page
 *   already has
 * @returns {{id: ?string, now: () => number, confirmedUntil: () => number, cancel: () => void, close: () => void}} `id`
 *   is null if the token is not a watch token; `now()` returns the server's time in ms; `confirmedUntil()` returns the
 *   server's time until which the newest snapshot is known to be current, and 0 while the connection is not live
 */
export function watchJob({ url, token, onConnection, onError }, onSnapshot) {
  const watch = { onConnection, onError, onSnapshot, closed: false };
  if (!JOB_ID.test(readClaims(token)?.sub) || token.length > MAX_TOKEN_LENGTH) return rejectToken(watch);
  const registry = registryFor(url);
  const job = registry.addWatch(token, watch);
  return {
    id: job.id,
    now: () => registry.now(),
    confirmedUntil: () => registry.confirmedUntil(job),
    cancel: () => registry.cancel(job),
    close: () => registry.removeWatch(job, watch),
  };
}

/** One job and the watches that share it. */
class WatchedJob {
  watches = new Set();
  token = null; // the best of the watches' tokens that the server has not rejected
  rejectedTokens = new Set();
  snapshot = null;
  confirmed = 0; // the server's time until which the snapshot is known to have been current
  error = null; // the last one since the job was requested
  cancelling = false; // requested here, and not confirmed by a snapshot yet
  dropped = false; // not requested any more until there is another token

  constructor(id) {
    this.id = id;
  }

  get finished() {
    return Boolean(this.snapshot?.finished_at);
  }

  /** Whether the server has rejected the subscription. */
  get rejected() {
    return REJECTIONS.has(this.error?.code);
  }

  /** Replace a rejected token by the best one of the other watches; return whether there is one. */
  replaceToken() {
    this.rejectedTokens.add(this.token);
    const tokens = [...this.watches].map(({ token }) => token).filter((token) => !this.rejectedTokens.has(token));
    if (!tokens.length) {
      this.rejectedTokens.clear();
      return false;
    }
    this.token = tokens.reduce((best, token) => (isBetterToken(token, best) ? token : best));
    return true;
  }

  /** Clear the error and return the message that subscribes to the job. */
  subscribeMessage() {
    this.error = null;
    return { watch: this.token, version: this.snapshot?.version };
  }

  applySnapshot(snapshot) {
    this.cancelling &&= !snapshot.cancel_requested && !snapshot.finished_at;
    if (this.snapshot && snapshot.version <= this.snapshot.version) return;
    this.snapshot = snapshot;
    this.notify("onSnapshot", snapshot);
  }

  applyError({ code, message }) {
    this.cancelling = false;
    this.error = { code, message };
    this.notify("onError", this.error);
  }

  /** Call one callback of all watches. A watch that a callback adds is skipped: it gets the current state itself. */
  notify(callback, ...details) {
    for (const watch of [...this.watches]) call(watch, callback, ...details);
  }
}

/** The jobs watched at one notifier, and the connection that they share. */
class JobRegistry {
  #url;
  #jobs = new Map();
  #state = "connecting";
  #detail;
  #refusal;
  #clock = new ServerClock();
  #confirmed = 0; // the server's time at its last sign of life; Infinity if the server repeats none
  #rank; // of the transport that worked last
  #connection;

  constructor(url) {
    this.#url = url;
    this.#connection = openConnection(url, this, (update) => this.#onUpdate(update));
  }

  get jobs() {
    return [...this.#jobs.values()];
  }

  /** The jobs to request from the server. */
  get wantedJobs() {
    return this.jobs.filter((job) => !job.dropped);
  }

  /** The current state of the connection, as an update for another tab. */
  get connectionUpdate() {
    const [state, detail, refusal] = [this.#state, this.#detail, this.#refusal];
    return { state, detail, refusal, confirmed: this.#confirmed, rank: this.#rank, now: this.now() };
  }

  /** Request a job with another watch's token after an error of its token; return whether there is one. */
  tryOtherToken({ code, job_id: id }) {
    const job = this.#jobs.get(id);
    if (!job || !TOKEN_REJECTIONS.has(code) || !job.replaceToken()) return false;
    this.#connection.subscribe([job]);
    return true;
  }

  /** Request the rejected jobs no more, since the server refuses a client that repeats them; return whether there were any. */
  dropRejectedJobs() {
    const rejected = this.wantedJobs.filter((job) => job.rejected);
    for (const job of rejected) job.dropped = true;
    return rejected.length > 0;
  }

  now() {
    return this.#clock.now();
  }

  confirmedUntil(job) {
    return this.#state === "live" ? Math.min(this.now(), job.confirmed) : 0;
  }

  /** Add a watch and return its job. The snapshot is the newest one that another tab already has. */
  addWatch(token, watch, snapshot) {
    const { sub: id } = readClaims(token);
    const job = this.#jobs.get(id) ?? new WatchedJob(id);
    this.#jobs.set(id, job);
    job.watches.add(Object.assign(watch, { token }));
    job.rejectedTokens.delete(token);
    if (snapshot) job.applySnapshot(snapshot);
    if (!job.token || job.error || isBetterToken(token, job.token)) {
      job.token = token;
      job.error = null;
      job.dropped = false;
      this.#connection.subscribe([job]);
    }
    queueMicrotask(() => {
      call(watch, "onConnection", this.#state, this.#detail);
      if (job.snapshot) call(watch, "onSnapshot", job.snapshot);
      if (this.#refusal) call(watch, "onError", this.#refusal);
    });
    return job;
  }

  removeWatch(job, watch) {
    watch.closed = true;
    if (!job.watches.delete(watch) || job.watches.size) return;
    this.#jobs.delete(job.id);
    this.#connection.unsubscribe(job);
    if (!this.#jobs.size) this.#close();
  }

  /** Request the job's cancellation, and repeat the request on each new connection until a snapshot confirms it. */
  cancel(job) {
    job.cancelling = !job.finished;
    this.#connection.cancel(job);
  }

  #onUpdate({ job, error, state, now, confirmed, rank, ...details }) {
    this.#confirmed = confirmed ?? this.#confirmed;
    // The first hello of a connection, which has a state, confirms no snapshot: newer ones may follow.
    for (const known of this.jobs) if (confirmed ? !state : known.id === job?.id) known.confirmed = this.#confirmed;
    if (job) this.#jobs.get(job.id)?.applySnapshot(job);
    if (error) this.#jobs.get(error.job_id)?.applyError(error);
    if (now) this.#clock.synchronize(now);
    this.#rank = rank ?? this.#rank;
    if (state) this.#setState(state, details);
  }

  #setState(state, { detail, refusal, final }) {
    if (final) this.#close(); // before the callbacks: a watch that one of them adds needs a new connection
    if (state === this.#state || state === "connecting") return;
    this.#state = state;
    this.#detail = detail;
    this.#refusal = refusal;
    for (const job of this.jobs) job.notify("onConnection", state, detail);
    if (refusal) for (const job of this.jobs) job.applyError(refusal);
  }

  #close() {
    this.#connection.close();
    if (registries.get(this.#url) === this) registries.delete(this.#url);
  }
}

function registryFor(baseUrl) {
  const url = new URL(baseUrl, document.baseURI).href.replace(/\/*$/, "");
  if (!registries.has(url)) registries.set(url, new JobRegistry(url));
  return registries.get(url);
}

/** Call a callback of a watch. An exception is reported as uncaught and does not affect other watches. */
function call(watch, callback, ...details) {
  if (watch.closed) return;
  try {
    watch[callback]?.(...details);
  } catch (error) {
    reportError(error);
  }
}

/** Return whether a token allows more than another one, or the same for longer. */
function isBetterToken(token, other) {
  const [claims, otherClaims] = [token, other].map(readClaims);
  return mayCancel(claims) === mayCancel(otherClaims) ? claims.exp > otherClaims.exp : mayCancel(claims);
}

function rejectToken(watch) {
  const error = { code: "invalid_token", message: "This is not a watch token." };
  queueMicrotask(() => call(watch, "onError", error));
  return { id: null, now: Date.now, confirmedUntil: () => 0, cancel() {}, close: () => (watch.closed = true) };
}
