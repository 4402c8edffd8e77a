/**
 * `<headway-job token="…" url="…">Export of March</headway-job>` shows one job live.
 *
 * What stands in the element is its label; the job's kind is, when nothing does. Whatever a job says is shown as text,
 * never as markup.
 */

import { mayCancel, readClaims } from "./token.js";
import { View } from "./view.js";
import { watchJob } from "./watch.js";
import { cancelling, percent, workerLost } from "./words.js";

const NAME = "headway-job";
const NO_TOKEN = { code: "no_token", message: 'There is no job to show: <headway-job token="…"> needs a token.' };
const NO_URL = { code: "no_url", message: 'There is no address to ask: <headway-job url="…"> needs the notifier’s.' };
const Base = globalThis.HTMLElement ?? class {}; // a server that renders pages imports this file, too

let served; // the notifier's address, where the submitter has served this file

/**
 * @fires headway-change with each newer snapshot
 * @fires headway-end when the job has ended, with its last snapshot
 * @fires headway-error when the job cannot be seen, with the code and message of `onError`
 */
export class HeadwayJob extends Base {
  static observedAttributes = ["token", "url"];

  #internals = this.attachInternals();
  #view = new View(this.attachShadow({ mode: "open" }), () => this.cancel());
  #snapshot = null;
  #problem = null;
  #connection = "connecting";
  #asked = false; // whether to cancel has been asked here
  #watch = null;
  #watched = ""; // which token and url
  #syncing = false;
  #timer;

  /** The newest snapshot, null before the first. */
  get snapshot() {
    return this.#snapshot;
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

  /** Ask for the job's cancellation; the token must allow it. */
  cancel() {
    if (!this.#watch) return;
    this.#asked = true;
    this.#problem = null;
    this.#watch.cancel();
    this.#render();
  }

  connectedCallback() {
    for (const name of HeadwayJob.observedAttributes) upgrade(this, name);
    this.#sync();
  }

  disconnectedCallback() {
    this.#sync();
  }

  attributeChangedCallback(_name, before, after) {
    if (before !== after) this.#sync();
  }

  /** Follow the page once it is done: it names token and url one by one, and moves an element by taking it out. */
  #sync() {
    if (this.#syncing) return;
    this.#syncing = true;
    queueMicrotask(() => {
      this.#syncing = false;
      const wanted = this.isConnected ? JSON.stringify([this.token, this.url]) : "";
      if (wanted === this.#watched) return;
      this.#stop();
      this.#watched = wanted;
      if (wanted) this.#start();
    });
  }

  async #start() {
    const { token } = this;
    const wanted = this.#watched;
    if (readClaims(token)?.sub !== this.#snapshot?.id) this.#snapshot = null;
    this.#problem = null;
    this.#connection = "connecting";
    this.#asked = false;
    this.#render();
    if (!token) return this.#fail(NO_TOKEN);
    const url = this.url || (await servedUrl());
    if (wanted !== this.#watched || this.#watch) return; // the page has named another meanwhile, or put it out and back
    if (!url || !URL.canParse(url, document.baseURI)) return this.#fail(NO_URL);
    const onConnection = (state) => this.#connected(state);
    const onError = (error) => this.#fail(error);
    this.#watch = watchJob({ url, token, onConnection, onError }, (snapshot) => this.#show(snapshot));
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#watch?.close();
    this.#watch = null;
  }

  #connected(state) {
    this.#connection = state;
    this.#render();
  }

  #show(snapshot) {
    const before = this.#snapshot;
    this.#problem = null;
    this.#asked &&= !snapshot.finished_at;
    if (!before || snapshot.version > before.version) this.#snapshot = snapshot;
    this.#render();
    if (this.#snapshot === before) return;
    this.#tell("headway-change", snapshot);
    if (snapshot.finished_at && snapshot.finished_at !== before?.finished_at) this.#tell("headway-end", snapshot);
  }

  #fail(problem) {
    this.#problem = problem;
    this.#asked = false;
    this.#render();
    this.#tell("headway-error", problem);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  /** Show what is known, and again at each full second for as long as something may be counted down. */
  #render() {
    clearTimeout(this.#timer);
    const snapshot = this.#snapshot;
    const now = this.#watch?.now() ?? Date.now();
    const error = this.#error();
    this.#view.render(snapshot, { error, connection: this.#connection, cancel: this.#cancelButton(), now });
    this.#mark(error, now);
    const counting = this.#watch && snapshot && !snapshot.finished_at;
    if (counting) this.#timer = setTimeout(() => this.#render(), 1000 - (now % 1000));
  }

  /** An ended job needs no more watching: what became of it outweighs why it cannot be watched. */
  #error() {
    const failure = this.#snapshot?.error;
    if (this.#problem && !this.#snapshot?.finished_at) return this.#problem.message;
    return failure ? `${failure.type}: ${failure.message}` : "";
  }

  #cancelButton() {
    if (!this.#snapshot || this.#snapshot.finished_at || !mayCancel(readClaims(this.token))) return "";
    return this.#asked || cancelling(this.#snapshot) ? "asked" : "may";
  }

  /** Tell the page's styles how the job fares: `headway-job:state(failed)`. */
  #mark(error, now) {
    const { states } = this.#internals;
    const snapshot = this.#snapshot;
    const moving = snapshot?.status === "running";
    states.clear();
    states.add(snapshot?.status ?? "waiting");
    if (error) states.add("error");
    if (this.#connection === "reconnecting") states.add("reconnecting");
    if (moving && percent(snapshot) === null) states.add("indeterminate");
    if (moving && workerLost(snapshot, now)) states.add("lost");
  }
}

function reflect(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

/** Take over what a page has set before this file was there. */
function upgrade(element, name) {
  if (!Object.hasOwn(element, name)) return;
  const value = element[name];
  delete element[name];
  element[name] = value;
}

/** Ask the submitter that has served this file, if one has; the address is put together lest a bundler looks for it. */
function servedUrl() {
  const file = new URL("./live-url.js", import.meta.url).href;
  served ??= import(/* @vite-ignore */ /* webpackIgnore: true */ file).then(({ liveUrl }) => liveUrl, () => null);
  return served;
}

if (globalThis.customElements && !customElements.get(NAME)) customElements.define(NAME, HeadwayJob);
