/**
 * One connection to a notifier for all tabs of an origin.
 *
 * The tabs elect a leader with a Web Lock. The leader has the connection, forwards every update to the other tabs (the
 * followers), and watches the jobs and lists they subscribe to. When the leader closes or crashes, the browser releases the lock
 * and the next tab becomes the leader. The followers then subscribe again and include their newest snapshots, so no
 * update is missed. Each follower holds a presence lock of its own, which tells the leader when that tab is gone.
 */

import { FallbackConnection } from "./connection.js";

const PROTOCOL = 4; // of the messages between tabs; tabs with different protocols do not share a connection
const LEADER_CHECK_MS = 3_000; // a follower pings a leader that has sent nothing for this long, at most twice as long
const LEADER_TIMEOUT_MS = 3_000; // a leader that does not answer is replaced: its tab is frozen or hangs
const STEAL = "steal"; // the abort reason that makes a tab steal the leader's lock

/**
 * Open a connection, shared between tabs if the browser supports it. The parameters are those of `FallbackConnection`.
 *
 * @returns {{subscribe: (watched: object[]) => void, unsubscribe: (watched: object) => void,
 *   cancel: (job: object) => void, close: () => void}} what is watched are jobs and lists
 */
export function openConnection(url, registry, onUpdate) {
  const shareable = navigator.locks && globalThis.BroadcastChannel; // Web Locks need https: or localhost
  return shareable ? new SharedConnection(url, registry, onUpdate) : new FallbackConnection(url, registry, onUpdate);
}

class SharedConnection {
  #url;
  #registry;
  #onUpdate;
  #groupName; // of the channel and of the leader's lock
  #tabId = crypto.randomUUID();
  #listeners = new AbortController();
  #membership = null; // aborted when this tab leaves the group
  #election; // aborted when this tab resigns, or stops waiting for the lock
  #channel = null; // to the other tabs, while this tab is a member
  #connection = null; // while this tab is the leader
  #followers = new Map(); // while this tab is the leader: the followers' watches, by tab and id
  #leaderId = null; // a new id for each term of a leader
  #joinedLogs = new Set(); // while this tab is a follower: the ids of jobs whose log the leader has sent so far
  #timer; // while this tab is a follower: the next check of the leader, or the timeout of the current one

  constructor(url, registry, onUpdate) {
    this.#url = url;
    this.#registry = registry;
    this.#onUpdate = onUpdate;
    this.#groupName = `headway ${PROTOCOL} ${url}`;
    const options = { signal: this.#listeners.signal, capture: true };
    for (const event of ["pagehide", "freeze"]) addEventListener(event, this.#suspend, options);
    for (const event of ["pageshow", "resume"]) addEventListener(event, this.#resume, options);
    addEventListener("visibilitychange", () => this.#checkLeader({ probe: !document.hidden }), options);
    this.#resume();
  }

  subscribe(watched) {
    if (this.#connection) return this.#connection.subscribe(watched);
    for (const { id } of watched) this.#joinedLogs.delete(id);
    this.#post({ ask: watched.map(({ request }) => request) });
  }

  unsubscribe(watched) {
    if (this.#connection) this.#connection.unsubscribe(watched);
    else this.#post({ drop: watched.id, isJob: !watched.request.list });
  }

  cancel(job) {
    if (this.#connection) this.#connection.cancel(job);
    else this.#post({ cancel: job.id });
  }

  close() {
    this.#listeners.abort();
    this.#suspend();
  }

  /** Join the group. The presence lock comes first, so that a leader can tell when this tab is gone. */
  #resume = () => {
    if (this.#membership) return;
    const { signal } = (this.#membership = new AbortController());
    const join = () => {
      if (signal.aborted) return null;
      this.#channel = new BroadcastChannel(this.#groupName);
      this.#channel.onmessage = ({ data }) =>
        this.#connection ? this.#onFollowerMessage(data) : this.#onLeaderMessage(data);
      this.#runForLeader(signal);
      return untilAborted(signal);
    };
    const connectAlone = () => signal.aborted || this.#lead(signal); // a sandboxed frame may not use locks
    navigator.locks.request(this.#presenceLock(this.#tabId), join).catch(connectAlone);
  };

  /** Leave the group while the page is frozen or in the back/forward cache: it could not serve other tabs. */
  #suspend = () => {
    this.#membership?.abort();
    this.#membership = null;
    this.#election?.abort();
    this.#resign();
    clearTimeout(this.#timer);
    this.#channel?.close();
    this.#channel = null;
  };

  async #runForLeader(membership, steal = false) {
    const { signal } = (this.#election = new AbortController());
    this.#checkLeader();
    const options = steal ? { steal } : { signal };
    const lead = () => this.#lead(signal);
    await navigator.locks.request(this.#groupName, options, lead).catch(() => {}); // aborted, or the lock was stolen
    this.#resign();
    if (!membership.aborted) this.#runForLeader(membership, signal.reason === STEAL);
  }

  #lead(signal) {
    clearTimeout(this.#timer);
    this.#leaderId = crypto.randomUUID();
    this.#connection = new FallbackConnection(this.#url, this.#registry, (update) => {
      this.#post(update);
      this.#onUpdate(update);
    });
    this.#post({});
    return untilAborted(signal);
  }

  #resign() {
    this.#leaderId = null;
    if (!this.#connection) return;
    this.#election?.abort();
    this.#connection.close();
    this.#connection = null;
    for (const tab of this.#followers.keys()) this.#removeFollower(tab);
  }

  /** Called in a follower with each message. A new leader does not know what this tab watches, so it subscribes again. */
  #onLeaderMessage({ leader, hidden, logStart, ...update }) {
    if (!leader) return; // sent by another follower
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#checkLeader(), LEADER_CHECK_MS * (1 + Math.random()));
    if (leader !== this.#leaderId) {
      this.#leaderId = leader;
      this.subscribe(this.#registry.watched);
    }
    if (logStart?.tab === this.#tabId) this.#joinLog(logStart);
    // Until the leader has sent what it has of a log, a piece may begin after what this tab lacks.
    else if (!update.log || this.#joinedLogs.has(update.log.job_id)) this.#onUpdate(update);
    // Browsers throttle the timers of a hidden page to one per minute, so a visible tab reconnects sooner.
    if (update.state === "reconnecting" && hidden && !document.hidden) this.#election.abort(STEAL);
  }

  #joinLog({ id, pieces, error }) {
    this.#joinedLogs.add(id);
    for (const piece of pieces) this.#onUpdate({ log: { ...piece, job_id: id } });
    if (error) this.#onUpdate({ error: { ...error, job_id: id, log: true } });
  }

  /**
   * Ping the leader, and replace it unless it answers in time. It checks its connection meanwhile, since its timers may be
   * late, and probes the connection if the user looks at this tab.
   */
  #checkLeader(ping = {}) {
    if (this.#connection || !this.#channel) return;
    this.#post(ping);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#election.abort(STEAL), LEADER_TIMEOUT_MS);
  }

  /** Called in the leader with each message. */
  #onFollowerMessage({ tab, ask = [], drop, isJob, cancel, probe }) {
    if (!tab) return; // sent by a former leader whose lock was stolen, before it notices
    if (probe) this.#connection.probe();
    else this.#connection.check();
    const watches = this.#followers.get(tab) ?? this.#addFollower(tab);
    for (const request of ask) this.#addWatch(tab, watches, request);
    if (watches.has(drop)) this.#removeWatch(watches, drop);
    else if (isJob) this.#registry.unwatchListed(drop);
    if (watches.has(cancel)) this.#registry.cancel(watches.get(cancel).watched);
    this.#post(this.#registry.connectionUpdate);
  }

  /** Add a follower, and wait for its presence lock, which is free once that tab is gone. */
  #addFollower(tab) {
    this.#followers.set(tab, new Map());
    const { signal } = this.#election;
    const onGone = () => this.#removeFollower(tab);
    navigator.locks.request(this.#presenceLock(tab), { signal }, onGone).catch(() => {}); // this tab resigned
    return this.#followers.get(tab);
  }

  #removeFollower(tab) {
    const watches = this.#followers.get(tab) ?? new Map();
    this.#followers.delete(tab);
    for (const id of watches.keys()) this.#removeWatch(watches, id);
  }

  #addWatch(tab, watches, request) {
    const watch = {}; // without callbacks: all updates are forwarded to all tabs anyway
    const watched = this.#registry.addWatch(request, watch);
    this.#removeWatch(watches, request.id);
    watches.set(request.id, { watched, watch });
    if (request.cancelling) this.#registry.cancel(watched);
    const { snapshot } = watched;
    if (snapshot && snapshot.version !== request.snapshot?.version) this.#post({ job: snapshot });
    if (request.log !== undefined) this.#postLog(tab, watched, request.log);
  }

  #postLog(tab, { id, log, logError }, offset) {
    const pieces = log.piecesAfter(offset > log.end ? 0 : offset); // a log that is shorter has begun again
    this.#post({ logStart: { tab, id, pieces, error: logError } });
  }

  #removeWatch(watches, id) {
    if (!watches.has(id)) return;
    const { watched, watch } = watches.get(id);
    watches.delete(id);
    this.#registry.removeWatch(watched, watch);
  }

  #presenceLock(tab) {
    return `${this.#groupName} ${tab}`;
  }

  #post(message) {
    const sender = this.#connection ? { leader: this.#leaderId, hidden: document.hidden } : { tab: this.#tabId };
    this.#channel?.postMessage({ ...sender, ...message });
  }
}

/** Wait until a signal is aborted. */
function untilAborted(signal) {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener("abort", resolve)));
}
