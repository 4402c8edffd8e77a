/** The shadow DOM of `<headway-job>`: its parts and how they render a snapshot. */

import { renderAttempts } from "./attempts.js";
import {
  amountText,
  connectionText,
  messageText,
  nameText,
  nextStepText,
  percent,
  percentText,
  statusText,
} from "./format.js";
import { statusIcon } from "./icons.js";
import { CSS } from "./styles.js";

const LIVE_DELAY_MS = 100; // after which the first snapshot is no change any more that a screen reader would announce

const sheets = new Map(); // by their text; shared by all elements

export class View {
  #root;
  #parts = {};
  #texts = {}; // by part, as last written: a translator may have changed the text in the page
  #iconName; // of the icon that is shown
  #jobId; // of the snapshot that is shown
  #liveTimer;
  #isSilent;

  /**
   * @param {ShadowRoot} root
   * @param {() => void} onCancel called when the user clicks the cancel button
   * @param {{css?: string, isSilent?: boolean}} [options] the styles, and whether screen readers announce nothing by
   *   themselves
   */
  constructor(root, onCancel, { css = CSS, isSilent = false } = {}) {
    this.#root = root;
    this.#isSilent = isSilent;
    addStyles(root, css);
    root.append(this.#build());
    this.#setText("expand", "Show all");
    const { cancel, expand, message } = this.#parts;
    cancel.addEventListener("click", () => !cancel.hasAttribute("aria-disabled") && onCancel());
    expand.addEventListener("click", () => this.#expand(!this.#isExpanded));
    expand.addEventListener("blur", () => this.#updateExpand());
    new ResizeObserver(() => this.#updateExpand()).observe(message);
  }

  #build() {
    const label = this.#create("span", "label", { id: "label" }, this.#create("slot", "kind", { translate: "no" }));
    const titleAttributes = { "aria-atomic": true, tabindex: -1 }; // it takes the focus of the cancel button
    const state = this.#create("span", "state", {}, this.#create("span", "icon"), this.#create("span", "status"));
    const title = this.#create("span", "title", titleAttributes, label, state);
    const progressbar = { role: "progressbar", "aria-labelledby": "label", "aria-valuemin": 0, "aria-valuemax": 100 };
    return this.#create(
      "div",
      "job",
      {},
      this.#create("div", "head", {}, title, this.#create("span", "percent", { "aria-hidden": true })),
      this.#create("div", "track", progressbar, this.#create("div", "bar")),
      this.#create("div", "foot", {}, this.#buildText(), this.#buildActions()),
    );
  }

  #buildText() {
    const progress = this.#create("p", "progress", {}, this.#create("span", "amount"), this.#create("span", "note"));
    const words = [this.#create("p", "error"), this.#create("p", "message")];
    const attempts = this.#create("ol", "attempts", { "aria-label": "Earlier attempts" });
    const expand = this.#create("button", "expand", { type: "button", "aria-controls": "detail", hidden: "" });
    const detail = this.#create("div", "detail", { id: "detail" }, ...words, attempts, expand);
    return this.#create("div", "text", {}, progress, detail);
  }

  #buildActions() {
    const name = { id: "cancel", "aria-labelledby": "cancel label" }; // among other jobs, the button names its own
    const cancel = this.#create("button", "cancel", { type: "button", ...name });
    return this.#create("div", "actions", {}, cancel, this.#create("slot", "more", { name: "actions" }));
  }

  #create(tag, part, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries({ part, ...attributes })) element.setAttribute(name, value);
    element.append(...children);
    return (this.#parts[part] = element);
  }

  /**
   * Render a state.
   *
   * @param {?object} snapshot the newest snapshot
   * @param {object} state
   * @param {string} state.error why the job cannot be watched, or why it failed; "" if there is no error
   * @param {string} state.connection the state of the connection, as in `onConnection`
   * @param {"" | "reserved" | "enabled" | "requested"} state.cancel the cancel button: absent, hidden in its place,
   *   enabled, or already clicked
   * @param {number} state.now the server's time in ms
   * @param {number} state.confirmedUntil the time until which the snapshot is known to be current, in ms
   * @param {?object} state.position the job's position in the queue
   * @param {string[]} state.states the names of the element's states
   */
  render(snapshot, { error, connection, cancel, now, confirmedUntil, position, states }) {
    this.#updateLiveRegion(snapshot);
    this.#parts.job.dataset.states = states.join(" ");
    const nextStep = snapshot ? nextStepText(snapshot, now, confirmedUntil, position) : "";
    this.#setText("kind", snapshot ? nameText(snapshot) : "Job");
    setAttribute(this.#parts.kind, "translate", snapshot?.name ? null : "no");
    this.#setText("status", snapshot ? statusText(snapshot) : error ? "" : "Connecting…");
    this.#renderIcon(["lost", "stalled"].find((name) => states.includes(name)) ?? snapshot?.status);
    this.#setText("note", connectionText(connection, snapshot) || nextStep);
    const isNewText = [
      this.#renderError(snapshot, error),
      this.#renderMessage(snapshot, error),
      renderAttempts(this.#parts.attempts, snapshot),
    ].some(Boolean);
    if (isNewText) this.#updateExpand();
    this.#renderProgress(snapshot);
    this.#renderCancel(cancel);
  }

  #renderIcon(name) {
    if (name === this.#iconName) return;
    this.#iconName = name;
    this.#parts.icon.replaceChildren(...(name ? [statusIcon(name)] : []));
  }

  /** Show the error, and announce it unless it is part of the first snapshot; return whether it has changed. */
  #renderError(snapshot, text) {
    const { error, title } = this.#parts;
    const isNews = !snapshot || title.hasAttribute("role");
    if (this.#texts.error !== text) setAttribute(error, "role", isNews ? "alert" : null);
    error.hidden = !text;
    return this.#setText("error", text);
  }

  /** Show the message, which gives way to an error until the job has ended; return whether it has changed. */
  #renderMessage(snapshot, error) {
    const text = error && !snapshot?.finished_at ? "" : snapshot && messageText(snapshot);
    return this.#setText("message", text);
  }

  #renderProgress(snapshot) {
    const { track, bar } = this.#parts;
    const value = snapshot && percent(snapshot);
    this.#setText("amount", snapshot && amountText(snapshot));
    this.#setText("percent", snapshot && percentText(snapshot));
    bar.style.transform = value === null ? "" : `scaleX(${value / 100})`;
    bar.style.transformOrigin = getComputedStyle(this.#root.host).direction === "rtl" ? "right" : "left";
    const valueText = snapshot ? [percentText(snapshot), amountText(snapshot)].filter(Boolean).join(", ") : "";
    track.setAttribute("aria-valuetext", valueText || "not known");
    setAttribute(track, "aria-valuenow", value);
  }

  /** Render the button. It keeps the focus while the job is being cancelled; when it disappears, the title gets it. */
  #renderCancel(state) {
    const { cancel, title } = this.#parts;
    const isShown = state === "enabled" || state === "requested";
    if (!isShown && this.#root.activeElement === cancel) title.focus();
    cancel.hidden = !isShown;
    cancel.toggleAttribute("data-reserved", state === "reserved");
    setAttribute(cancel, "aria-disabled", state === "requested" ? true : null);
    this.#setText("cancel", state === "requested" ? "Cancelling…" : "Cancel");
  }

  /**
   * Make the title a live region after the first snapshot of a job, so that a page with many jobs is silent when it
   * loads. Label and status are one region, which names the job with its status.
   */
  #updateLiveRegion(snapshot) {
    if (this.#isSilent) return;
    const { title } = this.#parts;
    const makeLive = () => title.setAttribute("role", "status");
    clearTimeout(this.#liveTimer);
    if (snapshot && snapshot.id === this.#jobId) return makeLive();
    this.#jobId = snapshot?.id;
    title.removeAttribute("role");
    if (snapshot) this.#liveTimer = setTimeout(makeLive, LIVE_DELAY_MS);
  }

  get #isExpanded() {
    return this.#parts.expand.getAttribute("aria-expanded") === "true";
  }

  /** Show all of the text, or two lines. The space for all of it stays, so that later messages move nothing. */
  #expand(expanded) {
    const { expand, detail } = this.#parts;
    expand.setAttribute("aria-expanded", expanded);
    detail.toggleAttribute("data-expanded", expanded);
    detail.style.minBlockSize = expanded ? `${detail.offsetHeight}px` : "";
    this.#setText("expand", expanded ? "Show less" : "Show all");
    this.#updateExpand();
  }

  /**
   * Offer the whole text if the shown lines do not contain it, or if there are earlier attempts. The button does not
   * disappear under the focus.
   */
  #updateExpand() {
    const { expand, detail, error, message, attempts } = this.#parts;
    const isCut = [detail, error, message].some(({ scrollHeight, clientHeight }) => scrollHeight > clientHeight + 1);
    const hasMore = isCut || attempts.hasChildNodes();
    expand.hidden = !hasMore && !this.#isExpanded && this.#root.activeElement !== expand;
  }

  /** Set a text if it differs from the one last written, and return whether it does: each write is announced. */
  #setText(part, value) {
    const text = value ?? "";
    if (this.#texts[part] === text) return false;
    this.#parts[part].textContent = this.#texts[part] = text;
    return true;
  }
}

/** Set an attribute; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

/**
 * Add styles to a shadow root. An adopted style sheet needs no 'unsafe-inline' in the page's policy, but browsers before
 * 2023 may have none.
 */
export function addStyles(root, css) {
  try {
    if (!sheets.has(css)) sheets.set(css, createSheet(css));
    root.adoptedStyleSheets = [sheets.get(css)];
  } catch {
    root.append(Object.assign(document.createElement("style"), { textContent: css }));
  }
}

function createSheet(css) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  return sheet;
}
