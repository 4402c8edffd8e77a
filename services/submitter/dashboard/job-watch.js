/** A job as the dashboard follows it: its snapshot live, its details, and why one of them is missing. */

import { readDetails } from "/assets/details.js";
import { liveUrl } from "/assets/live-url.js";
import { QueuePosition } from "/assets/position.js";
import { watchJob } from "/assets/watch.js";

const READ_INTERVAL_MS = 5000; // between two reads of the details: of a running job, whose steps are not pushed, or after an error

export class JobWatch {
  snapshot = null;
  /** The details, as `readDetails` returns them; null before they are known. */
  details = null;
  /** The worker that runs the job or has run it, as `/live/workers` lists it; null if it is not known. */
  worker = null;
  /** Why the job cannot be watched, null if it can. */
  problem = null;
  /** Why the details could not be read, null if they could. */
  detailsProblem = null;
  connection = "connecting";
  /** The server's time in ms when the connection was lost; null unless it is. */
  lostAt = null;
  #app;
  #id;
  #onChange;
  #watch;
  #position;
  #confirmed = 0;
  #readFor = ""; // the state of the job for which the details were requested
  #readAt = -Infinity; // by the monotonic clock
  #isReading = false;
  #isClosed = false;

  /** @param {() => void} onChange called when something of the job has changed */
  constructor(app, id, onChange) {
    this.#app = app;
    this.#id = id;
    this.#onChange = onChange;
    const { session } = app;
    const onConnection = (state) => this.#onConnection(state);
    const onError = (error) => this.#onError(error);
    const options = { url: liveUrl, token: session.tokens(), jobId: id, onConnection, onError };
    this.#position = new QueuePosition(liveUrl, () => session.token, onChange);
    this.#watch = watchJob(options, (snapshot) => this.#onSnapshot(snapshot));
  }

  /** The server's time in ms. It stands still while the connection is lost: what is shown is the state of then. */
  get now() {
    return this.lostAt ?? this.#watch.now();
  }

  /** The server's time in ms until which the snapshot is known to be current. */
  get confirmedUntil() {
    return this.#watch.confirmedUntil();
  }

  /** The server's time in ms at which the snapshot was last known to be current; 0 without one. */
  get knownAt() {
    const { updated_at: updated, submitted_at: submitted } = this.snapshot ?? {};
    return Math.max(this.#confirmed, Date.parse(updated ?? submitted) || 0);
  }

  /** Do what is due; call this every second. */
  tick() {
    const confirmed = this.confirmedUntil;
    if (confirmed > this.#confirmed && this.connection === "live") this.#app.api.heard();
    this.#confirmed = Math.max(this.#confirmed, confirmed);
    const interval = this.detailsProblem || this.snapshot?.status === "running" ? READ_INTERVAL_MS : Infinity;
    if (this.snapshot && !document.hidden && performance.now() - this.#readAt >= interval) this.readDetails();
  }

  /** Return the job's position in the queue, null if it is not known; call this every second while the job waits. */
  pollPosition(isWaiting) {
    return this.#position.poll(isWaiting && this.connection === "live" ? this.#id : null);
  }

  /** Read the details again; one request is under way at a time. */
  async readDetails() {
    if (this.#isReading || this.#isClosed) return;
    this.#isReading = true;
    this.#readAt = performance.now();
    const readFor = stateOf(this.snapshot);
    try {
      this.details = await readDetails(this.#app.api, this.#id);
      this.detailsProblem = null;
    } catch (error) {
      this.detailsProblem = error;
    }
    this.#isReading = false;
    this.#readFor = readFor;
    if (this.#isClosed) return;
    this.#onChange();
    if (this.detailsProblem) return;
    this.#readWorker();
    this.#readIfChanged();
  }

  close() {
    this.#isClosed = true;
    this.#watch.close();
  }

  #onSnapshot(snapshot) {
    this.snapshot = snapshot;
    this.problem = null;
    if (this.connection === "live") this.#app.api.heard(); // otherwise the page had it already
    this.#readIfChanged();
    this.#onChange();
  }

  #onConnection(state) {
    this.connection = state;
    const isLost = state === "reconnecting" || state === "refused";
    if (!isLost) this.lostAt = null;
    else this.lostAt ??= this.#watch.now();
    this.#onChange();
  }

  #onError(error) {
    this.problem = error;
    this.#onChange();
  }

  /** Read the details if the job has changed in a way that may change them, too. */
  #readIfChanged() {
    if (stateOf(this.snapshot) !== this.#readFor) this.readDetails();
  }

  /** Read which version the worker has; only operators may list workers. */
  async #readWorker() {
    const { worker } = this.details;
    if (!worker || worker === this.worker?.id || !this.#app.session.canOperate) return;
    this.worker = { id: worker };
    try {
      const { workers } = await this.#app.api.live("/live/workers");
      this.worker = workers.find(({ id }) => id === worker) ?? this.worker;
    } catch {
      return; // its id is shown without the version
    }
    if (!this.#isClosed) this.#onChange();
  }
}

function stateOf(snapshot) {
  if (!snapshot) return "";
  const { generation, attempt, status, cancel_requested: isCancelled, finished_at: finished, version } = snapshot;
  return [generation, attempt, status, isCancelled, finished && version].join(" "); // an ended job changes when it is erased
}
