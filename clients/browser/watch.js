/**
 * Watch jobs live: one connection per notifier, shared by all watches of all tabs.
 *
 * A snapshot is always the whole state, so one that is lost, repeated or skipped does no harm: versions only rise, and
 * after a reconnect the newest comes by itself.
 */

import { share } from "./tabs.js";
import { mayCancel, readClaims } from "./token.js";

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const TOKEN_LENGTH = 4096; // the server reads none that is longer
const UNWATCHED = new Set(["invalid_token", "token_expired", "too_many_watches"]); // errors of a job that is not watched

const connections = new Map(); // by the notifier's URL

/**
 * Watch one job until `close()`; its end does not end the watch, since a job can be run again.
 *
 * No handler is called before this function returns, nor after `close()`.
 *
 * @param {object} options
 * @param {string} options.url the notifier's public base URL
 * @param {string} options.token a watch token
 * @param {(state: "connecting" | "live" | "reconnecting" | "refused", detail?: {code: number, reason: string}) => void}
 *   [options.onConnection] each change of the connection, with what caused it
 * @param {(error: {code: string, message: string}) => void} [options.onError] why this job cannot be seen:
 *   `invalid_token`, `token_expired`, `too_many_watches`, `refused`, `origin_not_allowed`, or `unknown` (its record is
 *   lost; the watch goes on); or why it cannot be cancelled: `forbidden`, `unavailable`
 * @param {(snapshot: object) => void} onSnapshot each newer snapshot, first the last one the page already has
 * @returns {{id: ?string, now: () => number, cancel: () => void, close: () => void}} `now` is the server's clock in ms
 */
export function watchJob({ url, token, onConnection, onError }, onSnapshot) {
  const watch = { onConnection, onError, onSnapshot, closed: false };
  if (!ID.test(readClaims(token)?.sub) || token.length > TOKEN_LENGTH) return unreadable(watch);
  const connection = connect(url);
  const job = connection.join(token, watch);
  return {
    id: job.id,
    now: () => connection.now(),
    cancel: () => connection.cancel(job),
    close: () => connection.leave(job, watch),
  };
}

/** One job and the watches that share it. */
class Job {
  watches = new Set();
  token = null;
  snapshot = null;
  error = null; // the last one, since it was asked for
  cancelling = false; // asked for, and not yet seen to be

  constructor(id) {
    this.id = id;
  }

  get ended() {
    return Boolean(this.snapshot?.finished_at);
  }

  /** Whether the server does not watch it, though asked to. */
  get refused() {
    return UNWATCHED.has(this.error?.code);
  }

  /** Return what to ask the server. */
  ask() {
    this.error = null;
    return { watch: this.token, version: this.snapshot?.version };
  }

  show(snapshot) {
    this.cancelling &&= !snapshot.cancel_requested && !snapshot.finished_at;
    if (this.snapshot && snapshot.version <= this.snapshot.version) return;
    this.snapshot = snapshot;
    this.tell("onSnapshot", snapshot);
  }

  fail({ code, message }) {
    this.cancelling = false;
    this.error = { code, message };
    this.tell("onError", this.error);
  }

  /** Tell all watches, except those that a handler adds meanwhile: they catch up by themselves. */
  tell(event, ...details) {
    for (const watch of [...this.watches]) tell(watch, event, ...details);
  }
}

/** The jobs that are watched at one notifier. */
class Connection {
  #url;
  #jobs = new Map();
  #state = "connecting";
  #detail;
  #refusal;
  #offset; // of the server's clock, in ms
  #line;

  constructor(url) {
    this.#url = url;
    this.#line = share(url, this, (news) => this.#hear(news));
  }

  get jobs() {
    return [...this.#jobs.values()];
  }

  get news() {
    return { state: this.#state, detail: this.#detail, refusal: this.#refusal, offset: this.#offset };
  }

  now() {
    return Date.now() + (this.#offset ?? 0);
  }

  /** Begin a watch; the snapshot is what the watcher has seen already. */
  join(token, watch, snapshot) {
    const { sub: id } = readClaims(token);
    const job = this.#jobs.get(id) ?? new Job(id);
    this.#jobs.set(id, job);
    job.watches.add(watch);
    if (snapshot) job.show(snapshot);
    if (!job.token || job.error || outranks(token, job.token)) {
      job.token = token;
      job.error = null;
      this.#line.ask([job]);
    }
    queueMicrotask(() => {
      tell(watch, "onConnection", this.#state, this.#detail);
      if (job.snapshot) tell(watch, "onSnapshot", job.snapshot);
      if (this.#refusal) tell(watch, "onError", this.#refusal);
    });
    return job;
  }

  leave(job, watch) {
    watch.closed = true;
    if (!job.watches.delete(watch) || job.watches.size) return;
    this.#jobs.delete(job.id);
    this.#line.drop(job);
    if (!this.#jobs.size) this.#retire();
  }

  /** Ask for the job's cancellation, now and with each new connection until it is seen. */
  cancel(job) {
    job.cancelling = !job.ended;
    this.#line.cancel(job);
  }

  #hear({ job, error, state, offset, ...news }) {
    if (job) this.#jobs.get(job.id)?.show(job);
    if (error) this.#jobs.get(error.job_id)?.fail(error);
    this.#offset = offset ?? this.#offset;
    if (state) this.#enter(state, news);
  }

  #enter(state, { detail, refusal, final }) {
    if (final) this.#retire(); // first, so that a watch which a handler starts gets a new connection
    if (state === this.#state || state === "connecting") return;
    this.#state = state;
    this.#detail = detail;
    this.#refusal = refusal;
    for (const job of this.jobs) job.tell("onConnection", state, detail);
    if (refusal) for (const job of this.jobs) job.fail(refusal);
  }

  #retire() {
    this.#line.close();
    if (connections.get(this.#url) === this) connections.delete(this.#url);
  }
}

function connect(base) {
  const url = new URL(base, document.baseURI).href.replace(/\/*$/, "");
  if (!connections.has(url)) connections.set(url, new Connection(url));
  return connections.get(url);
}

/** Call one handler: what it throws is reported, and disturbs no other watch. */
function tell(watch, event, ...details) {
  if (watch.closed) return;
  try {
    watch[event]?.(...details);
  } catch (error) {
    reportError(error);
  }
}

/** Tell whether a token allows more than another, or the same for longer. */
function outranks(token, other) {
  const [claims, others] = [token, other].map(readClaims);
  return mayCancel(claims) === mayCancel(others) ? claims.exp > others.exp : mayCancel(claims);
}

function unreadable(watch) {
  const error = { code: "invalid_token", message: "This is not a watch token." };
  queueMicrotask(() => tell(watch, "onError", error));
  return { id: null, now: Date.now, cancel() {}, close: () => (watch.closed = true) };
}
