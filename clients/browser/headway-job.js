/**
 * `<headway-job token="…" url="…">Export of March</headway-job>` shows one job live.
 *
 * The element's content is its label. If it is empty, the job's name or kind is shown. Texts of a job are rendered as text,
 * never as markup.
 */

import { customStatesOf, isUrl, reflect, upgradeProperty } from "./custom-element.js";
import { isWaiting } from "./format.js";
import { cancelState, jobStates, shownError } from "./job-states.js";
import { liveUrl } from "./live-url.js";
import { QueuePosition } from "./position.js";
import { mayCancel, readClaims, TOKEN_REJECTIONS } from "./token.js";
import { View } from "./view.js";
import { watchJob } from "./watch.js";

const NAME = "headway-job";
const NO_TOKEN = { code: "no_token", message: "No job to show: set the token attribute of <headway-job>." };
const NO_URL = {
  code: "no_url",
  message: "No notifier to connect to: set the url attribute of <headway-job> to the notifier’s public URL.",
};
const Base = globalThis.HTMLElement ?? class {}; // server-side rendering imports this module without a DOM

/**
 * @fires headway-change for each newer snapshot
 * @fires headway-end when the job has finished, with its last snapshot
 * @fires headway-error when the job cannot be watched or cancelled, with the code and message of `onError`
 */
export class HeadwayJob extends Base {
  static observedAttributes = ["token", "url"];

  #customStates = customStatesOf(this, "waiting");
  #view = new View(this.attachShadow({ mode: "open" }), () => this.cancel());
  #snapshot = null;
  #watchError = null;
  #connection = "connecting";
  #cancelRequested = false; // by this element
  #watch = null;
  #position = null;
  #watchedKey = ""; // the token and URL of the current watch
  #syncScheduled = false;
  #timer;

  /** The newest snapshot, null before the first. */
  get snapshot() {
    return this.#snapshot;
  }

  /** Why the job cannot be watched or cancelled, as `{code, message}`; null once that has changed. */
  get error() {
    return this.#watchError;
  }

  get token() {
    return this.getAttribute("token");
  }

  set token(value) {
    reflect(this, "token", value);
  }

  get url() {
    return this.getAttribute("url");
  }

  set url(value) {
    reflect(this, "url", value);
  }

  /** Request the job's cancellation; the token must allow it. */
  cancel() {
    if (!this.#watch) return;
    this.#cancelRequested = true;
    this.#watchError = null;
    this.#watch.cancel();
    this.#render();
  }

  connectedCallback() {
    for (const name of HeadwayJob.observedAttributes) upgradeProperty(this, name);
    this.#sync();
  }

  disconnectedCallback() {
    this.#sync();
  }

  attributeChangedCallback(_name, before, after) {
    if (before !== after) this.#sync();
  }

  /**
   * Start or stop the watch in a microtask, after the page's script has finished its changes: it sets token and URL one
   * after the other, and moving an element disconnects it first.
   */
  #sync() {
    if (this.#syncScheduled) return;
    this.#syncScheduled = true;
    queueMicrotask(() => {
      this.#syncScheduled = false;
      const key = this.isConnected ? JSON.stringify([this.token, this.url]) : "";
      if (key === this.#watchedKey) return;
      this.#stop();
      this.#watchedKey = key;
      if (key) this.#start();
    });
  }

  #start() {
    const { token } = this;
    const url = this.url || liveUrl;
    if (readClaims(token)?.sub !== this.#snapshot?.id) this.#snapshot = null;
    this.#watchError = null;
    this.#connection = "connecting";
    this.#cancelRequested = false;
    this.#render();
    if (!token) return this.#onError(NO_TOKEN);
    if (!url || !isUrl(url)) return this.#onError(NO_URL);
    const onConnection = (state) => this.#onConnection(state);
    const onError = (error) => this.#onError(error);
    this.#watch = watchJob({ url, token, onConnection, onError }, (snapshot) => this.#onSnapshot(snapshot));
    this.#position = new QueuePosition(url, () => token, () => this.#render());
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#watch?.close();
    this.#watch = this.#position = null;
  }

  #onConnection(state) {
    this.#connection = state;
    this.#render();
  }

  #onSnapshot(snapshot) {
    const before = this.#snapshot;
    this.#watchError = null;
    this.#cancelRequested &&= !snapshot.finished_at;
    if (!before || snapshot.version > before.version) this.#snapshot = snapshot;
    this.#render();
    if (this.#snapshot === before) return;
    this.#dispatch("headway-change", snapshot);
    if (snapshot.finished_at && snapshot.finished_at !== before?.finished_at) this.#dispatch("headway-end", snapshot);
  }

  #onError(error) {
    this.#watchError = error;
    this.#cancelRequested = false;
    this.#render();
    this.#dispatch("headway-error", error);
  }

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  /** Render the current state, and again at each full second while the job is unfinished: it may show a countdown. */
  #render() {
    clearTimeout(this.#timer);
    const snapshot = this.#snapshot;
    const now = this.#watch?.now() ?? Date.now();
    const error = shownError(snapshot, this.#watchError);
    const confirmedUntil = this.#watch?.confirmedUntil() ?? 0;
    const connection = this.#connection;
    const states = jobStates(snapshot, { error, connection, confirmedUntil });
    const canCancel = mayCancel(readClaims(this.token)) && !TOKEN_REJECTIONS.has(this.#watchError?.code);
    const cancel = cancelState(snapshot, canCancel, this.#cancelRequested);
    const position = this.#position?.poll(this.#isSeenWaiting(now) ? snapshot.id : null);
    this.#view.render(snapshot, { error, connection, cancel, now, confirmedUntil, position, states });
    this.#customStates.clear();
    for (const state of states) this.#customStates.add(state);
    const unfinished = this.#watch && snapshot && !snapshot.finished_at;
    if (unfinished) this.#timer = setTimeout(() => this.#render(), 1000 - (now % 1000));
  }

  /** Return whether the job waits in the queue, the element is in the window, and the connection is live. */
  #isSeenWaiting(now) {
    if (this.#connection !== "live" || !this.#snapshot || !isWaiting(this.#snapshot, now)) return false;
    const { top, bottom, height } = this.getBoundingClientRect();
    return height > 0 && bottom > 0 && top < innerHeight;
  }
}

/** Define `<headway-job>` in the page. Do nothing on a server, or if the page has already defined it. */
export function defineHeadwayJob() {
  if (globalThis.customElements && !customElements.get(NAME)) customElements.define(NAME, HeadwayJob);
}
