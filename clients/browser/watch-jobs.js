/**
 * `watchJobs()`: a live list of jobs, newest first.
 *
 * The server pushes which jobs are on the list over the connection that all tabs share. Where no WebSocket works, and
 * until one does, the list is polled. Of the jobs on the list, only those that a page shows are watched.
 */

import { fetchJobs } from "./fetch-jobs.js";
import { DEFAULT_LIMIT, JobList, listId } from "./job-list.js";
import { registryFor } from "./job-registry.js";
import { liveUrl } from "./live-url.js";
import { Poller } from "./poller.js";
import { RowWatches } from "./row-watches.js";
import { mayCancel, readClaims, TOKEN_REJECTIONS } from "./token.js";
import { TokenSource } from "./token-source.js";
import { call } from "./watched.js";

const CHANGE_DELAY_MS = 50; // changes in quick succession are one call
const WATCH_DELAY_MS = 250; // rows that are scrolled past are not watched
const REJECTIONS = new Set([...TOKEN_REJECTIONS, "forbidden", "invalid"]); // the same request would be refused again
const SILENT = new Set(["unavailable", "too_many_lists"]); // the list is polled
const NOT_A_LIST = { code: "invalid_token", message: "This is not the token of a list." };

/**
 * Watch a list of jobs until `close()`. No callback is called before this function returns, nor after `close()`.
 *
 * @param {object} options
 * @param {string} [options.url] the notifier's public base URL; by default that of the submitter that serves this module
 * @param {string | (() => string | Promise<string>)} options.token the token of a list, or a function that returns one:
 *   it is called at the start, and before the token expires
 * @param {object} [options.filter] narrows the list: see `JobsFilter` in watch-jobs.d.ts
 * @param {number} [options.limit] how many of the newest jobs are live: 1 to 100, 50 by default
 * @param {(list: object) => void} onChange called with each change of the list, as `{jobs, fresh, hasMore, loading,
 *   complete, connection, error, errors, isOutdated}`: see `JobListState` in watch-jobs.d.ts
 * @returns {WatchedJobs}
 */
export function watchJobs(options, onChange) {
  return new WatchedJobs(options, onChange);
}

class WatchedJobs {
  #url;
  #token; // where it comes from
  #request; // the request of the list, as the registry takes it
  #query; // the same, as parameters of a URL
  #newList;
  #list;
  #scope; // what the token selects, as JSON
  #subscriber;
  #registry = null;
  #watch = {}; // of the list
  #watched = null; // what the watch watches, while the server has not refused it
  #rows = null; // the watches of the rows
  #listed = new Set(); // the ids of jobs that the server has begun to send because they are on the list
  #visible = null; // ids; null while all rows are
  #connection = "connecting"; // of the registry
  #answered = false; // whether the connection has sent the list
  #poller = new Poller(() => this.#poll());
  #loaded = false; // whether the list, or that it is empty, can be shown
  #state = { complete: true, loading: false, error: null };
  #errors = new Map(); // by the job's id: why it cannot be cancelled
  #timers = {};

  constructor({ url = liveUrl, token, filter = {}, limit = DEFAULT_LIMIT }, onChange) {
    const statuses = [filter.status ?? []].flat();
    const fields = JSON.parse(JSON.stringify({ ...filter, status: statuses.length ? statuses : undefined }));
    this.#url = url;
    this.#request = { list: { filter: fields, limit } };
    this.#query = { ...fields, limit };
    this.#newList = () => new JobList({ statuses, limit });
    this.#list = this.#newList();
    this.#subscriber = { onChange, closed: false };
    this.#token = new TokenSource(token, (value) => this.#subscribe(value), (error) => this.#onNoToken(error));
  }

  /** Load older jobs. */
  async more() {
    if (this.#state.loading) return;
    this.#set({ loading: true, error: null });
    const list = this.#list; // another token may replace it meanwhile
    const { token } = this.#request;
    try {
      await list.loadOlder((query) => this.#fetch(query));
    } catch ({ code, message }) {
      if (code !== "invalid" && this.#isCurrent(token)) this.#onError({ code, message });
      if (list === this.#list) this.#set({ error: { code, message } });
    }
    this.#set({ loading: false });
  }

  /** Hold the rows while a user points at them: newer jobs are counted as `fresh`. Or release them; they change at once. */
  hold(held) {
    this.#list.hold(held);
    this.#changed();
    if (!held) this.#deliver(); // later, the user may point at them again
  }

  /** Watch only these jobs, because a page shows no others. */
  setVisible(ids) {
    this.#visible = new Set(ids);
    this.#scheduleWatches();
  }

  /** Whether the token allows cancelling. */
  get canCancel() {
    return mayCancel(readClaims(this.#request.token));
  }

  /** Request a job's cancellation; the token must allow it. */
  cancel(id) {
    if (this.#errors.delete(id)) this.#deliver();
    const job = this.#list.get(id);
    if (job) this.#rows?.cancel(job);
  }

  /** Go on with another token of the same list. */
  renew(token) {
    this.#token.replace(token);
  }

  /** Return the server's time in ms. */
  now() {
    return this.#registry?.now() ?? Date.now();
  }

  /** Return the server's time until which the snapshot of a job is known to be current, 0 if it is not watched. */
  confirmedUntil(id) {
    return Math.max(this.#rows?.confirmedUntil(id) ?? 0, this.#poller.polledAt);
  }

  close() {
    this.#subscriber.closed = true;
    this.#token.close();
    this.#poller.close();
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#unsubscribe();
  }

  /**
   * Subscribe before the earlier subscription ends, so that the connection stays open; return an error if the token is not
   * that of a list.
   */
  #subscribe(token) {
    const { filter } = readClaims(token) ?? {};
    if (!filter) return NOT_A_LIST;
    const isOtherScope = this.#enterScope(JSON.stringify(filter));
    const { list } = this.#request;
    this.#request = { id: listId(token, list), token, list };
    const watch = {
      onConnection: (state) => this.#onConnection(state),
      onError: (error) => this.#onError(error),
      onList: (message) => this.#onList(message),
      onJob: (job) => this.#apply(job),
    };
    const registry = registryFor(this.#url);
    const watched = registry.addWatch(this.#request, watch);
    this.#unsubscribe();
    this.#registry = registry;
    this.#watch = watch;
    this.#watched = watched;
    this.#rows = new RowWatches(registry, token, (id, error) => this.#onRowError(id, error));
    this.#set({ error: null });
    if (isOtherScope) this.#deliver(); // that the other jobs are gone, before the list is loaded again
    return null;
  }

  /** Forget the jobs if a token selects others than the one before, for example those of another user. */
  #enterScope(scope) {
    const isOther = this.#scope !== undefined && this.#scope !== scope;
    this.#scope = scope;
    if (!isOther) return false;
    this.#list = this.#newList();
    this.#loaded = false;
    this.#poller.polledAt = 0;
    this.#errors.clear();
    return true;
  }

  /** Called when there is no new token. While the server accepts the last one, the list goes on. */
  #onNoToken(error) {
    if (!this.#watched || !this.#token.isRenewable) this.#set({ error });
  }

  #unsubscribe() {
    this.#answered = false;
    this.#rows?.close();
    if (this.#watched) this.#registry.removeWatch(this.#watched, this.#watch);
    this.#rows = this.#watched = null;
  }

  #onConnection(state) {
    this.#connection = state;
    if (state !== "live") this.#answered = false;
    this.#changed();
  }

  /** Called when the server refuses the list. With another token, it may accept it. */
  #onError(error) {
    if (REJECTIONS.has(error.code)) this.#unsubscribe();
    if (TOKEN_REJECTIONS.has(error.code) && this.#token.isRenewable) this.#token.retry();
    else if (!SILENT.has(error.code)) this.#set({ error });
  }

  #onRowError(id, error) {
    if (error.code === "unknown") this.#list.remove(id);
    else if (!TOKEN_REJECTIONS.has(error.code)) this.#errors.set(id, error); // the list has the same error
    this.#changed();
  }

  #apply(job) {
    if (!this.#list.apply(job)) return;
    this.#errors.delete(job.id);
    this.#changed();
  }

  #onList({ jobs, next, complete, entered = [], left = [] }) {
    if (jobs) {
      this.#answered = true;
      this.#setHead(jobs, next, complete);
    } else {
      this.#list.change(entered, left);
      this.#set({ complete: complete ?? this.#state.complete });
    }
    for (const id of jobs ?? entered) this.#listed.add(id);
  }

  #setHead(ids, next, complete) {
    this.#poller.failures = 0;
    this.#token.onAccepted(this.#request.token, this.now());
    this.#list.setHead(ids, next);
    this.#set({ complete, error: null });
  }

  /** Poll the list unless the connection pushes it, or the page is hidden. */
  async #poll() {
    const isPushed = this.#answered && this.#registry.hasSocket && !this.#list.isIncomplete;
    if (isPushed) this.#poller.polledAt = 0;
    else if (this.#watched && !document.hidden) await this.#fetchHead();
  }

  async #fetchHead() {
    const [{ token }, { revision }] = [this.#request, this.#list];
    try {
      const { jobs, next, complete, now } = await this.#fetch({});
      if (!this.#isCurrent(token)) return;
      this.#poller.polledAt = Date.parse(now);
      // After a change that was pushed meanwhile, the answer may be older than the list; its snapshots still count.
      if (revision === this.#list.revision) this.#setHead(jobs.map(({ id }) => id), next, complete);
      for (const job of jobs) this.#apply(job);
    } catch ({ code, message }) {
      if (!this.#isCurrent(token)) return;
      this.#poller.fail();
      this.#onError({ code, message });
    }
    this.#changed();
  }

  /** Whether the answer to a request with this token still matters. */
  #isCurrent(token) {
    return !this.#subscriber.closed && token === this.#request.token;
  }

  #fetch(query) {
    return fetchJobs(this.#registry.url, this.#request.token, { ...this.#query, ...query });
  }

  #scheduleWatches() {
    this.#timers.watches ??= setTimeout(() => this.#updateWatches(), WATCH_DELAY_MS);
  }

  /** Watch the jobs that the page shows, and no others, although the server sends all on the list. */
  #updateWatches() {
    this.#timers.watches = null;
    if (!this.#watched) return;
    this.#rows.update(this.#list.jobs.filter(({ id }) => this.#visible?.has(id) ?? true));
    for (const id of this.#listed) this.#registry.unwatchListed(id); // if it is not watched
    this.#listed.clear();
  }

  #set(changes) {
    Object.assign(this.#state, changes);
    this.#changed();
  }

  #changed() {
    if (this.#subscriber.closed) return;
    this.#scheduleWatches();
    this.#timers.change ??= setTimeout(() => this.#deliver(), CHANGE_DELAY_MS);
  }

  #deliver() {
    clearTimeout(this.#timers.change);
    this.#timers.change = null;
    call(this.#subscriber, "onChange", this.#currentState());
  }

  #currentState() {
    const { jobs, fresh, isOutdated, hasMore, isIncomplete } = this.#list;
    const isLive = this.#answered || this.#poller.polledAt > 0;
    this.#loaded ||= isLive && !isIncomplete;
    const unanswered = this.#connection === "live" ? "connecting" : this.#connection;
    const connection = isLive ? "live" : this.#poller.failures ? "reconnecting" : unanswered;
    const rows = this.#loaded ? jobs : null;
    return { ...this.#state, jobs: rows, fresh, isOutdated, hasMore, connection, errors: new Map(this.#errors) };
  }
}
