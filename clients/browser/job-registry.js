/**
 * What a page watches at one notifier: jobs and lists of jobs, over one connection that all tabs share.
 *
 * A snapshot is the complete state of a job, and its version only increases. So lost, repeated or skipped snapshots do
 * no harm, and after a reconnect the server sends the newest one.
 */

import { ServerClock } from "./server-clock.js";
import { openConnection } from "./shared-connection.js";
import { mayCancel, readClaims } from "./token.js";

const TOKEN_REJECTIONS = new Set(["invalid_token", "token_expired"]);
const REJECTIONS = new Set([...TOKEN_REJECTIONS, "too_many_watches"]); // the server does not watch the job

const registries = new Map(); // by the notifier's URL

/** Something that is watched, and the watches that share it. */
class Watched {
  watches = new Set();

  constructor(id) {
    this.id = id;
  }

  /** Call one callback of all watches. A watch that a callback adds is skipped: it gets the current state itself. */
  notify(callback, ...details) {
    for (const watch of [...this.watches]) call(watch, callback, ...details);
  }
}

class WatchedJob extends Watched {
  token = null; // the best of the watches' tokens that the server has not rejected
  rejectedTokens = new Set();
  snapshot = null;
  confirmed = 0; // the server's time until which the snapshot is known to have been current
  error = null; // the last one since the job was requested
  cancelling = false; // requested here, and not confirmed by a snapshot yet
  dropped = false; // not requested any more until there is another token

  get finished() {
    return Boolean(this.snapshot?.finished_at);
  }

  /** Whether the server has rejected the subscription. */
  get rejected() {
    return REJECTIONS.has(this.error?.code);
  }

  /** What another tab needs to watch the same job. */
  get request() {
    const { id, token, snapshot, cancelling } = this;
    return { id, token, snapshot, cancelling };
  }

  /** Add a watch; return whether the job must be requested with its token. */
  add(watch, { token, snapshot }) {
    this.watches.add(Object.assign(watch, { token }));
    this.rejectedTokens.delete(token);
    if (snapshot) this.applySnapshot(snapshot);
    if (this.token && !this.error && !isBetterToken(token, this.token)) return false;
    this.token = token;
    this.error = null;
    this.dropped = false;
    return true;
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

  /** Clear the error and return the message that subscribes to the job. A list's token does not name the job. */
  subscribeMessage() {
    this.error = null;
    return { watch: this.token, version: this.snapshot?.version, job_id: readClaims(this.token).sub ? undefined : this.id };
  }

  unsubscribeMessage() {
    return { unwatch: this.id };
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
}

/** A live list of jobs. The server sends it for each request, so only its watches keep what is on it. */
class WatchedList extends Watched {
  /** Add a watch; a list is requested for each. */
  add(watch, request) {
    this.watches.add(watch);
    this.request = request;
    return true;
  }

  subscribeMessage() {
    const { token, list } = this.request;
    return { list: token, ...list, list_id: this.id };
  }

  unsubscribeMessage() {
    return { unlist: this.id };
  }

  applyError({ code, message }) {
    this.notify("onError", { code, message });
  }
}

/** The jobs and lists watched at one notifier, and the connection that they share. */
class JobRegistry {
  #watched = new Map(); // by id
  #state = "connecting";
  #detail;
  #refusal;
  #clock = new ServerClock();
  #confirmed = 0; // the server's time at its last sign of life; Infinity if the server repeats none
  #rank; // of the transport that worked last
  #connection;

  constructor(url) {
    this.url = url;
    this.#connection = openConnection(url, this, (update) => this.#onUpdate(update));
  }

  /** All that is watched: jobs and lists. */
  get watched() {
    return [...this.#watched.values()];
  }

  get #jobs() {
    return this.watched.filter((watched) => watched instanceof WatchedJob);
  }

  /** The jobs to request from the server. */
  get wantedJobs() {
    return this.#jobs.filter((job) => !job.dropped);
  }

  get lists() {
    return this.watched.filter((watched) => watched instanceof WatchedList);
  }

  /** Whether messages arrive over a WebSocket, the only transport of lists. */
  get hasSocket() {
    return this.#state === "live" && this.#rank === 0;
  }

  /** The current state of the connection, as an update for another tab. */
  get connectionUpdate() {
    const [state, detail, refusal] = [this.#state, this.#detail, this.#refusal];
    return { state, detail, refusal, confirmed: this.#confirmed, rank: this.#rank, now: this.now() };
  }

  /** Request a job with another watch's token after an error of its token; return whether there is one. */
  tryOtherToken({ code, job_id: id }) {
    const job = this.#watched.get(id);
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

  /**
   * Add a watch and return what it watches.
   *
   * @param {object} request
   * @param {string} request.id of the job or the list
   * @param {string} request.token
   * @param {object} [request.snapshot] of the job, the newest one that the caller or another tab has
   * @param {{filter: object, limit: number}} [request.list] what is on the list, if a list is watched
   * @param {object} watch with the callbacks `onConnection`, `onError` and, of a job, `onSnapshot`, of a list, `onList`
   *   and `onJob`
   */
  addWatch(request, watch) {
    const { id, list } = request;
    const watched = this.#watched.get(id) ?? new (list ? WatchedList : WatchedJob)(id);
    this.#watched.set(id, watched);
    if (watched.add(watch, request)) this.#connection.subscribe([watched]);
    queueMicrotask(() => {
      call(watch, "onConnection", this.#state, this.#detail);
      if (watched.snapshot) call(watch, "onSnapshot", watched.snapshot);
      if (this.#refusal) call(watch, "onError", this.#refusal);
    });
    return watched;
  }

  removeWatch(watched, watch) {
    watch.closed = true;
    if (!watched.watches.delete(watch) || watched.watches.size) return;
    this.#watched.delete(watched.id);
    this.#connection.unsubscribe(watched);
    if (!this.#watched.size) this.#close();
  }

  /** Receive no more snapshots of a job that is only watched because it is on a list. */
  unwatchListed(id) {
    if (!this.#watched.has(id)) this.#connection.unsubscribe(new WatchedJob(id));
  }

  /** Request the job's cancellation, and repeat the request on each new connection until a snapshot confirms it. */
  cancel(job) {
    job.cancelling = !job.finished;
    this.#connection.cancel(job);
  }

  #onUpdate({ job, list, error, state, now, confirmed, rank, ...details }) {
    this.#confirmed = confirmed ?? this.#confirmed;
    // The first hello of a connection, which has a state, confirms no snapshot: newer ones may follow.
    for (const known of this.#jobs) if (confirmed ? !state : known.id === job?.id) known.confirmed = this.#confirmed;
    if (job) {
      this.#watched.get(job.id)?.applySnapshot(job);
      for (const list of this.lists) list.notify("onJob", job);
    }
    if (list) this.#watched.get(list.id)?.notify("onList", list);
    if (error) this.#watched.get(error.job_id ?? error.list_id)?.applyError(error);
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
    for (const watched of this.watched) watched.notify("onConnection", state, detail);
    if (refusal) for (const watched of this.watched) watched.applyError(refusal);
  }

  #close() {
    this.#connection.close();
    if (registries.get(this.url) === this) registries.delete(this.url);
  }
}

/** Return the registry of a notifier, which is given by its public base URL. */
export function registryFor(baseUrl) {
  const url = new URL(baseUrl, document.baseURI).href.replace(/\/*$/, "");
  if (!registries.has(url)) registries.set(url, new JobRegistry(url));
  return registries.get(url);
}

/** Call a callback of a watch. An exception is reported as uncaught and does not affect other watches. */
export function call(watch, callback, ...details) {
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
