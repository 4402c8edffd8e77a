/**
 * Watch jobs live: one WebSocket per notifier, shared by all watches of a page.
 *
 *     const watch = watchJob({ url, token }, (snapshot) => render(snapshot));
 *     watch.close();
 *
 * A snapshot is always the whole state, so one that is lost, repeated or skipped does no harm: versions only rise, and
 * after a reconnect the newest comes by itself.
 */

const HELLO_TIMEOUT_MS = 8_000;
const BACKOFF_BASE_MS = 250;
const BACKOFF_CAP_MS = 10_000;
const REFUSALS = new Set([1008, 1009]); // policy, too big: what is sent again would be refused again
const OVERLOADED = 1013;
const OVERLOADED_ATTEMPTS = 5; // an overloaded server still says hello, so start at the wait that five failures earn

const connections = new Map(); // by socket URL

/**
 * Watch one job until `close()`; its end does not end the watch, since a job can be run again.
 *
 * No handler is called before this function returns, nor after `close()`.
 *
 * @param {object} options
 * @param {string} options.url the notifier's public base URL
 * @param {string} options.token a watch token
 * @param {(state: "connecting" | "live" | "reconnecting" | "refused", detail?: {code: number, reason: string}) => void}
 *   [options.onConnection] each change of the connection, with the close that caused it; "refused" is not retried
 * @param {(error: {code: string, message: string}) => void} [options.onError] why this job cannot be seen:
 *   `invalid_token`, `token_expired`, `refused`, or `unknown` (its record is lost; the watch goes on)
 * @param {(snapshot: object) => void} onSnapshot each newer snapshot, first the last one the page already has
 * @returns {{id: ?string, now: () => number, cancel: () => void, close: () => void}} `now` is the server's clock in ms
 */
export function watchJob({ url, token, onConnection, onError }, onSnapshot) {
  const watch = { onConnection, onError, onSnapshot, closed: false };
  const claims = readClaims(token);
  if (!claims?.sub) return unreadable(watch);
  const connection = connect(url);
  const job = connection.join(claims, token, watch);
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
  snapshot = null;
  answer = null; // of the server to the last request: "job" or "error"
  cancelling = false;

  constructor(id) {
    this.id = id;
  }

  hold(token, claims) {
    Object.assign(this, { token, claims });
  }

  /** What to ask the server. Version 0 means that there was no record, so it is not named as one that was seen. */
  get request() {
    return { watch: this.token, version: this.snapshot?.version || undefined };
  }

  show(snapshot) {
    this.answer = "job";
    if (this.snapshot && snapshot.version <= this.snapshot.version) return;
    this.snapshot = snapshot;
    this.tell("onSnapshot", snapshot);
  }

  fail({ code, message }) {
    this.answer = "error";
    this.tell("onError", { code, message });
  }

  /** Tell all watches, except those that a handler adds meanwhile: they catch up by themselves. */
  tell(event, ...details) {
    for (const watch of [...this.watches]) tell(watch, event, ...details);
  }
}

/** One notifier's socket and the jobs watched over it. */
class Connection {
  #url;
  #jobs = new Map();
  #state = "connecting";
  #detail;
  #socket = null;
  #timer; // of the hello that is awaited, or of the next attempt
  #attempts = 0;
  #clockOffset = 0;

  constructor(url) {
    this.#url = url;
    this.#open();
    addEventListener("online", this.#renew);
  }

  now() {
    return Date.now() + this.#clockOffset;
  }

  join(claims, token, watch) {
    const id = claims.sub;
    const job = this.#jobs.get(id) ?? new Job(id);
    this.#jobs.set(id, job);
    job.watches.add(watch);
    if (!job.token || job.answer === "error" || outranks(claims, job.claims)) {
      job.hold(token, claims);
      this.#ask(job);
    }
    queueMicrotask(() => {
      tell(watch, "onConnection", this.#state, this.#detail);
      if (job.snapshot) tell(watch, "onSnapshot", job.snapshot);
    });
    return job;
  }

  leave(job, watch) {
    watch.closed = true;
    if (!job.watches.delete(watch) || job.watches.size) return;
    this.#jobs.delete(job.id);
    this.#send({ unwatch: job.id });
    if (!this.#jobs.size) this.#retire();
  }

  /** Ask for the job's cancellation, now or with the next connection. */
  cancel(job) {
    job.cancelling = !this.#send({ cancel: job.id });
  }

  #open = () => {
    this.#drop();
    const socket = new WebSocket(this.#url);
    socket.onopen = () => this.#resume();
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(1006, "No hello came."), HELLO_TIMEOUT_MS);
  };

  /** The network changed: there is nothing to wait for, and an open socket may be dead without either end knowing. */
  #renew = () => {
    this.#open();
    if (this.#state === "live") this.#enter("reconnecting");
  };

  #resume() {
    for (const job of this.#jobs.values()) {
      this.#ask(job);
      if (job.cancelling) this.cancel(job);
    }
  }

  #ask(job) {
    job.answer = null;
    this.#send(job.request);
  }

  #receive({ hello, job, error }) {
    if (hello) this.#greet(hello);
    if (job) this.#jobs.get(job.id)?.show(job);
    if (error) for (const concerned of this.#concernedBy(error)) concerned.fail(error);
  }

  /** Only a hello proves a server: a proxy opens sockets, too, while nobody is behind it. */
  #greet({ now }) {
    clearTimeout(this.#timer);
    this.#attempts = 0;
    this.#clockOffset = Date.parse(now) - Date.now();
    this.#enter("live");
  }

  /** A token that fails verification has no job to name: such an error is for whoever has no answer yet. */
  #concernedBy({ job_id: id }) {
    return [...this.#jobs.values()].filter((job) => (id ? job.id === id : !job.answer));
  }

  #lost(code, reason) {
    this.#drop();
    if (REFUSALS.has(code)) return this.#refuse({ code, reason });
    if (code === OVERLOADED) this.#attempts = Math.max(this.#attempts, OVERLOADED_ATTEMPTS);
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempts++);
    this.#timer = setTimeout(this.#open, Math.random() * ceiling);
    this.#enter("reconnecting", { code, reason });
  }

  #refuse(detail) {
    this.#retire(); // first, so that a watch which a handler starts gets a new connection
    this.#enter("refused", detail);
    const message = detail.reason || "The server refused the connection.";
    for (const job of this.#jobs.values()) job.fail({ code: "refused", message });
  }

  #enter(state, detail) {
    if (state === this.#state) return;
    this.#state = state;
    this.#detail = detail;
    for (const job of [...this.#jobs.values()]) job.tell("onConnection", state, detail);
  }

  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #drop() {
    clearTimeout(this.#timer);
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #retire() {
    removeEventListener("online", this.#renew);
    this.#drop();
    if (connections.get(this.#url) === this) connections.delete(this.#url);
  }
}

function connect(base) {
  const url = base.replace(/^http/, "ws").replace(/\/*$/, "/live");
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

/** Read which job a token is for; whether it may be believed is for the server to say. */
function readClaims(token) {
  try {
    const [, payload] = token.split(".");
    return JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return null;
  }
}

/** Tell whether a token allows more than another, or the same for longer. */
function outranks(claims, others) {
  const cancels = ({ scope = "" }) => scope.includes("cancel");
  return cancels(claims) === cancels(others) ? claims.exp > others.exp : cancels(claims);
}

function unreadable(watch) {
  const error = { code: "invalid_token", message: "This is not a watch token." };
  queueMicrotask(() => tell(watch, "onError", error));
  return { id: null, now: Date.now, cancel() {}, close: () => (watch.closed = true) };
}
