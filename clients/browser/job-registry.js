/**
 * What a page watches at one notifier: jobs and lists of jobs, over one connection that all tabs share.
 *
 * A snapshot is the complete state of a job, and its version only increases. So lost, repeated or skipped snapshots do
 * no harm, and after a reconnect the server sends the newest one.
 */

import { ServerClock } from "./server-clock.js";
import { openConnection } from "./shared-connection.js";
import { TOKEN_REJECTIONS } from "./token.js";
import { call, WatchedJob, WatchedList } from "./watched.js";

const registries = new Map(); // by the notifier's URL

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
  tryOtherToken({ code, job_id: id, log, cancel }) {
    const job = this.#watched.get(id);
    if (!job || log || cancel) return false;
    const isOfToken = code === "forbidden" ? !job.cancelling : TOKEN_REJECTIONS.has(code);
    if (!isOfToken || !job.replaceToken()) return false;
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
   * Add a watch, or let it go on with another token; return what it watches.
   *
   * @param {object} request
   * @param {string} request.id of the job or the list
   * @param {string} request.token
   * @param {object} [request.snapshot] of the job, the newest one that the caller or another tab has
   * @param {number} [request.log] the offset up to which the caller has the log, if the watch wants the log
   * @param {{filter: object, limit: number}} [request.list] what is on the list, if a list is watched
   * @param {object} watch with the callbacks `onConnection`, `onError` and, of a job, `onSnapshot` and `onLog`, of a list,
   *   `onList` and `onJob`
   */
  addWatch(request, watch) {
    const { id, list } = request;
    const watched = this.#watched.get(id) ?? new (list ? WatchedList : WatchedJob)(id);
    this.#watched.set(id, watched);
    const isNew = !watched.watches.has(watch);
    if (watched.add(watch, request)) this.#connection.subscribe([watched]);
    if (!isNew) return watched;
    queueMicrotask(() => {
      call(watch, "onConnection", this.#state, this.#detail);
      watched.sendCurrent(watch);
      if (this.#refusal) call(watch, "onError", this.#refusal);
    });
    return watched;
  }

  removeWatch(watched, watch) {
    watch.closed = true;
    if (!watched.watches.has(watch)) return;
    if (watched.remove(watch)) this.#connection.subscribe([watched]);
    if (watched.watches.size) return;
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

  #onUpdate({ job, log, list, error, state, now, confirmed, rank, ...details }) {
    this.#confirmed = confirmed ?? this.#confirmed;
    // The first hello of a connection, which has a state, confirms no snapshot: newer ones may follow.
    for (const known of this.#jobs) if (confirmed ? !state : known.id === job?.id) known.confirmed = this.#confirmed;
    if (job) {
      this.#watched.get(job.id)?.applySnapshot(job);
      for (const list of this.lists) list.notify("onJob", job);
    }
    if (log) this.#watched.get(log.job_id)?.applyLog(log);
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
