/**
 * One line to a notifier for all tabs of an origin.
 *
 * The tab that holds a Web Lock leads: it has the line, tells all tabs what it hears, and watches what they ask for. The
 * others follow. When the lock is free, because its tab has closed or crashed, the next one leads; the others ask it for
 * their jobs anew and hand over what they have seen, so nothing is lost. A follower holds a lock of its own, by which the
 * leader knows when it is gone.
 */

import { Line } from "./line.js";

const PROTOCOL = 1; // among tabs: those that have loaded another version of this file keep to themselves
const PULSE_MS = 10_000; // after which a silent leader is asked whether it is there
const SILENCE_MS = 3_000; // after which one that does not answer is replaced: its tab is frozen, or hangs
const STEAL = "steal"; // the reason to stop waiting for the lock

/**
 * Open a line, shared among tabs where the browser can; for its parameters see there.
 *
 * @returns {{ask: (jobs: object[]) => void, drop: (job: object) => void, cancel: (job: object) => void, close: () => void}}
 */
export function share(url, desk, tell) {
  const able = navigator.locks && globalThis.BroadcastChannel; // no locks on plain http: beyond this machine
  return able ? new Tab(url, desk, tell) : new Line(url, desk, tell);
}

class Tab {
  #url;
  #desk;
  #tell;
  #name;
  #id = crypto.randomUUID();
  #open = new AbortController();
  #stay = null; // aborted to take no part any more
  #candidacy; // aborted to lead no more, or to wait for it no more
  #channel = null; // to the other tabs, while this one takes part
  #line = null; // while this tab leads
  #members = new Map(); // while it leads: what the others watch, by tab and job
  #term = null; // names the leader's time in office
  #timer; // while this tab follows: of the next pulse, or of the answer to it

  constructor(url, desk, tell) {
    this.#url = url;
    this.#desk = desk;
    this.#tell = tell;
    this.#name = `headway ${PROTOCOL} ${url}`;
    const { signal } = this.#open;
    for (const event of ["pagehide", "freeze"]) addEventListener(event, this.#rest, { signal, capture: true });
    for (const event of ["pageshow", "resume"]) addEventListener(event, this.#enter, { signal, capture: true });
    addEventListener("visibilitychange", () => this.#pulse(), { signal, capture: true });
    this.#enter();
  }

  ask(jobs) {
    if (this.#line) this.#line.ask(jobs);
    else this.#post({ ask: jobs.map(({ token, snapshot, cancelling }) => ({ token, snapshot, cancelling })) });
  }

  drop(job) {
    if (this.#line) this.#line.drop(job);
    else this.#post({ drop: job.id });
  }

  cancel(job) {
    if (this.#line) this.#line.cancel(job);
    else this.#post({ cancel: job.id });
  }

  close() {
    this.#open.abort();
    this.#rest();
  }

  /** Take part, from the moment on that others can tell when this tab is gone. */
  #enter = () => {
    if (this.#stay) return;
    const { signal } = (this.#stay = new AbortController());
    const present = () => {
      if (signal.aborted) return null;
      this.#channel = new BroadcastChannel(this.#name);
      this.#channel.onmessage = ({ data }) => (this.#line ? this.#serve(data) : this.#follow(data));
      this.#compete(signal);
      return aborted(signal);
    };
    const alone = () => signal.aborted || this.#lead(signal); // a sandboxed frame may have no locks
    navigator.locks.request(this.#presence(this.#id), present).catch(alone);
  };

  /** Take no part while the page is frozen or kept for the way back: nobody could rely on it. */
  #rest = () => {
    this.#stay?.abort();
    this.#stay = null;
    this.#candidacy?.abort();
    this.#resign();
    clearTimeout(this.#timer);
    this.#channel?.close();
    this.#channel = null;
  };

  async #compete(stay, steal = false) {
    const { signal } = (this.#candidacy = new AbortController());
    this.#pulse();
    const options = steal ? { steal } : { signal };
    await navigator.locks.request(this.#name, options, () => this.#lead(signal)).catch(() => {}); // given up, or stolen
    this.#resign();
    if (!stay.aborted) this.#compete(stay, signal.reason === STEAL);
  }

  #lead(signal) {
    clearTimeout(this.#timer);
    this.#term = crypto.randomUUID();
    this.#line = new Line(this.#url, this.#desk, (news) => {
      this.#post(news);
      this.#tell(news);
    });
    this.#post({});
    return aborted(signal);
  }

  #resign() {
    this.#term = null;
    if (!this.#line) return;
    this.#candidacy?.abort();
    this.#line.close();
    this.#line = null;
    for (const tab of this.#members.keys()) this.#dismiss(tab);
  }

  /** Hear the leader; a new one knows nothing of this tab. */
  #follow({ leader, hidden, ...news }) {
    if (!leader) return; // another follower speaks
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#pulse(), PULSE_MS * (1 + Math.random()));
    if (leader !== this.#term) {
      this.#term = leader;
      this.ask(this.#desk.jobs);
    }
    this.#tell(news);
    // A browser lets a hidden page try again once a minute only.
    if (news.state === "reconnecting" && hidden && !document.hidden) this.#candidacy.abort(STEAL);
  }

  #pulse() {
    if (this.#line || !this.#channel) return;
    this.#post({});
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#candidacy.abort(STEAL), SILENCE_MS);
  }

  /** Answer a follower. */
  #serve({ tab, ask = [], drop, cancel }) {
    if (!tab) return; // a leader that has not noticed yet that it is none any more
    const watches = this.#members.get(tab) ?? this.#admit(tab);
    for (const wanted of ask) this.#watch(watches, wanted);
    if (drop) this.#leave(watches, drop);
    if (watches.has(cancel)) this.#desk.cancel(watches.get(cancel).job);
    this.#post(this.#desk.news);
  }

  #admit(tab) {
    this.#members.set(tab, new Map());
    const { signal } = this.#candidacy;
    navigator.locks.request(this.#presence(tab), { signal }, () => this.#dismiss(tab)).catch(() => {}); // led no more
    return this.#members.get(tab);
  }

  #dismiss(tab) {
    const watches = this.#members.get(tab) ?? new Map();
    this.#members.delete(tab);
    for (const id of watches.keys()) this.#leave(watches, id);
  }

  #watch(watches, { token, snapshot, cancelling }) {
    const watch = {}; // without handlers: all that the line tells is told to all tabs anyway
    const job = this.#desk.join(token, watch, snapshot);
    this.#leave(watches, job.id);
    watches.set(job.id, { job, watch });
    if (cancelling) this.#desk.cancel(job);
    if (job.snapshot && job.snapshot.version !== snapshot?.version) this.#post({ job: job.snapshot });
  }

  #leave(watches, id) {
    if (!watches.has(id)) return;
    const { job, watch } = watches.get(id);
    watches.delete(id);
    this.#desk.leave(job, watch);
  }

  #presence(tab) {
    return `${this.#name} ${tab}`;
  }

  #post(message) {
    const sender = this.#line ? { leader: this.#term, hidden: document.hidden } : { tab: this.#id };
    this.#channel?.postMessage({ ...sender, ...message });
  }
}

/** Wait until a signal is aborted. */
function aborted(signal) {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener("abort", resolve)));
}
