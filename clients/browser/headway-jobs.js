/**
 * `<headway-jobs token="…" url="…">My exports</headway-jobs>` shows a list of jobs live, such as those of one user.
 *
 * The list grows at its top, but never under the pointer or the keyboard's focus, nor for a reader who has scrolled down:
 * then the newer jobs wait behind a button. Texts of a job are rendered as text, never as markup.
 */

import { customStatesOf, isUrl, reflect, upgradeProperty } from "./custom-element.js";
import { connectionText, nameText, statusText } from "./format.js";
import { DEFAULT_LIMIT, INITIAL_STATE } from "./job-list.js";
import { JobRow } from "./job-row.js";
import { JobsView } from "./jobs-view.js";
import { liveUrl } from "./live-url.js";
import { watchJobs } from "./watch-jobs.js";

const NAME = "headway-jobs";
const CATCH_UP_MS = 1_000; // at least, between two changes of the rows
const FILTER = ["kind", "tag", "owner", "status"];
const REFLECTED = ["token", "src", "url"];
const NO_TOKEN = { code: "no_token", message: "No jobs to show: set the token or src attribute of <headway-jobs>." };
const NO_URL = {
  code: "no_url",
  message: "No notifier to connect to: set the url attribute of <headway-jobs> to the notifier’s public URL.",
};
const Base = globalThis.HTMLElement ?? class {}; // server-side rendering imports this module without a DOM

/**
 * @fires headway-list for each change of the list
 * @fires headway-end when a job on the list has finished, with its last snapshot
 * @fires headway-error when the list cannot be shown, with a code and a message
 */
export class HeadwayJobs extends Base {
  static observedAttributes = [...REFLECTED, ...FILTER, "limit", "link"];

  #customStates = customStatesOf(this, "loading");
  #view = new JobsView(this.attachShadow({ mode: "open" }), {
    onVisible: (ids) => this.#list?.setVisible(ids),
    onTop: () => this.#onUse(),
  });
  #list = null; // the watch
  #state = INITIAL_STATE;
  #isPointedAt = false;
  #showsTop = false; // whether the user has asked for the newer jobs
  #watchedKey = ""; // the other attributes of the current watch
  #watchedToken = null;
  #syncScheduled = false;
  #caughtUpAt = -Infinity;
  #catchUpTimer = null;
  #tickTimer;

  constructor() {
    super();
    const { fresh, older } = this.#view.parts;
    fresh.addEventListener("click", () => this.showNew());
    older.addEventListener("click", () => this.more());
    for (const type of ["pointerenter", "pointerleave"]) this.addEventListener(type, () => this.#onPointer(type));
    for (const type of ["focusin", "focusout"]) this.addEventListener(type, () => this.#onUse());
  }

  /** The snapshots of the rows, newest job first; null until the list has been received. */
  get jobs() {
    return this.#state.jobs;
  }

  /** Why the list cannot be shown, as `{code, message}`; null once that has changed. */
  get error() {
    return this.#state.error;
  }

  get token() {
    return this.getAttribute("token");
  }

  set token(value) {
    reflect(this, "token", value);
  }

  get src() {
    return this.getAttribute("src");
  }

  set src(value) {
    reflect(this, "src", value);
  }

  get url() {
    return this.getAttribute("url");
  }

  set url(value) {
    reflect(this, "url", value);
  }

  /** Load older jobs. */
  more() {
    return this.#list?.more();
  }

  /** Show the newer jobs that wait. */
  showNew() {
    this.#showsTop = true;
    this.#catchUp();
  }

  /** Request the cancellation of a job; the token must allow it. */
  cancel(id) {
    this.#list?.cancel(id);
  }

  connectedCallback() {
    for (const name of REFLECTED) upgradeProperty(this, name);
    this.#sync();
  }

  disconnectedCallback() {
    this.#sync();
  }

  attributeChangedCallback(_name, before, after) {
    if (before !== after) this.#sync();
  }

  /** Start or stop the watch in a microtask, after the page's script has finished its changes, as `<headway-job>` does. */
  #sync() {
    if (this.#syncScheduled) return;
    this.#syncScheduled = true;
    queueMicrotask(() => {
      this.#syncScheduled = false;
      const [, ...names] = HeadwayJobs.observedAttributes; // without the token, which may change for the same list
      const key = this.isConnected ? JSON.stringify(names.map((name) => this.getAttribute(name))) : "";
      const isSameList = this.#list && key === this.#watchedKey && (this.token || this.src);
      const isSameToken = this.token === this.#watchedToken;
      this.#watchedToken = this.token;
      if (isSameList) return isSameToken || this.#list.renew(this.#tokenOption());
      this.#stop();
      this.#watchedKey = key;
      if (key) this.#start();
    });
  }

  #start() {
    const url = this.url || liveUrl;
    this.#onChange(INITIAL_STATE);
    if (!this.token && !this.src) return this.#fail(NO_TOKEN);
    if (!url || !isUrl(url)) return this.#fail(NO_URL);
    const attributes = FILTER.map((name) => [name, this.getAttribute(name)]).filter(([, value]) => value);
    const filter = Object.fromEntries(attributes);
    if (filter.status) filter.status = filter.status.split(/[\s,]+/);
    this.#list = watchJobs({ url, token: this.#tokenOption(), filter, limit: this.#limit }, (state) => this.#onChange(state));
    this.#list.setVisible([]);
  }

  get #limit() {
    return Number(this.getAttribute("limit")) || DEFAULT_LIMIT;
  }

  #stop() {
    clearTimeout(this.#tickTimer);
    clearTimeout(this.#catchUpTimer);
    this.#catchUpTimer = null;
    this.#list?.close();
    this.#list = null;
  }

  /** Return the `token` option of `watchJobs`: with `src`, the page's own server issues a token whenever one is needed. */
  #tokenOption() {
    if (!this.src) return this.token;
    return async () => {
      const response = await fetch(this.src, { headers: { Accept: "application/json" }, cache: "no-store" });
      if (!response.ok) throw new Error(`${this.src} answered ${response.status}.`);
      return (await response.json()).token;
    };
  }

  #fail(error) {
    this.#onChange({ ...INITIAL_STATE, error });
  }

  #onPointer(type) {
    this.#isPointedAt = type === "pointerenter";
    this.#onUse();
  }

  /** Called when the user may have begun or stopped to use the rows. */
  #onUse() {
    this.#renderFrame();
    this.#scheduleCatchUp();
  }

  /** Whether the rows must stay where they are. */
  get #isInUse() {
    return Boolean(this.#state.jobs?.length) && (this.#isPointedAt || this.#view.isInUse);
  }

  #onChange(state) {
    const before = this.#state;
    this.#state = state;
    if (state.jobs && !before.jobs) this.#list.hold(true); // from now on, the rows change when no user is disturbed
    this.#render(before);
    this.#view.announce({ arrived: Math.max(0, state.fresh - before.fresh) });
    this.#dispatch("headway-list", state);
    if (state.error && state.error.code !== before.error?.code) this.#dispatch("headway-error", state.error);
    if (state.isOutdated) this.#scheduleCatchUp();
  }

  #scheduleCatchUp() {
    if (!this.#list) return;
    this.#catchUpTimer ??= setTimeout(() => {
      this.#catchUpTimer = null;
      if (this.#state.isOutdated && !this.#isInUse) this.#catchUp();
    }, this.#caughtUpAt + CATCH_UP_MS - performance.now());
  }

  #catchUp() {
    this.#caughtUpAt = performance.now();
    this.#list?.hold(false);
    this.#list?.hold(true);
  }

  #render(before) {
    clearTimeout(this.#tickTimer);
    const { jobs, connection, errors } = this.#state;
    const rows = jobs ?? [];
    const isNew = connection !== before.connection || errors.size || before.errors.size;
    this.#view.arrange(rows.map(({ id }) => id), (id) => this.#createRow(id));
    for (const job of rows) {
      const { snapshot } = this.#view.row(job.id);
      if (isNew || snapshot !== job) this.#renderRow(job);
      if (snapshot && !snapshot.finished_at && job.finished_at) this.#onEnd(job);
    }
    this.#renderFrame();
    if (this.#list) this.#tickTimer = setTimeout(() => this.#tick(), 1000);
  }

  #createRow(id) {
    const href = this.getAttribute("link")?.replaceAll("{id}", encodeURIComponent(id));
    return new JobRow(href, () => this.cancel(id));
  }

  #renderRow(job) {
    const { connection, errors } = this.#state;
    const { id } = job;
    const { canCancel } = this.#list;
    const [now, confirmedUntil] = [this.#list.now(), this.#list.confirmedUntil(id)];
    this.#view.row(id).render(job, { error: errors.get(id), connection, canCancel, now, confirmedUntil });
  }

  /** Render the visible rows each second: they show countdowns and ages. */
  #tick() {
    for (const { snapshot } of this.#view.visibleRows) this.#renderRow(snapshot);
    this.#tickTimer = setTimeout(() => this.#tick(), 1000);
  }

  #onEnd(job) {
    this.#dispatch("headway-end", job);
    this.#view.announce({ ended: [`${nameText(job)}: ${statusText(job)}`] });
  }

  /** Render all but the rows. */
  #renderFrame() {
    const { jobs, complete, connection, error } = this.#state;
    const waiting = jobs || error ? "" : "Loading…";
    const notice = connectionText(connection, jobs) || waiting || (complete ? "" : "Some jobs may be missing.");
    this.#view.renderFrame({ ...this.#state, notice, limit: this.#limit, showsFresh: this.#isInUse });
    if (this.#showsTop) this.#view.showTop();
    this.#showsTop = false;
    this.#customStates.clear();
    const states = { loading: waiting, empty: jobs?.length === 0, error, stale: jobs && connection !== "live" };
    for (const [name, isSet] of Object.entries(states)) if (isSet) this.#customStates.add(name);
  }

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }
}

/** Define `<headway-jobs>` in the page. Do nothing on a server, or if the page has already defined it. */
export function defineHeadwayJobs() {
  if (globalThis.customElements && !customElements.get(NAME)) customElements.define(NAME, HeadwayJobs);
}
