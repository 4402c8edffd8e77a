/** The shadow DOM of `<headway-job>`: its parts and how they render a snapshot. */

import { amountText, nextStepText, percent, percentText, statusText } from "./format.js";
import { CSS } from "./styles.js";

let sheet; // shared by all elements; an adopted style sheet needs no 'unsafe-inline' in the page's policy

export class View {
  #parts = {};

  constructor(root, onCancel) {
    sheet ??= new CSSStyleSheet();
    if (!sheet.cssRules.length) sheet.replaceSync(CSS);
    root.adoptedStyleSheets = [sheet];
    root.append(...this.#build());
    this.#parts.cancel.addEventListener("click", onCancel);
  }

  /** Create the parts. Label and status are one live region, so that a screen reader names the job with its status. */
  #build() {
    const label = this.#create("span", "label", { id: "label" }, this.#create("slot", "kind"));
    const liveRegion = { role: "status", "aria-atomic": true };
    const title = this.#create("span", "title", liveRegion, label, this.#create("span", "status"));
    const progressbar = { role: "progressbar", "aria-labelledby": "label", "aria-valuemin": 0, "aria-valuemax": 100 };
    const progress = this.#create("p", "progress", {}, this.#create("span", "amount"), this.#create("span", "note"));
    const error = this.#create("p", "error", { role: "alert" });
    const text = this.#create("div", "text", {}, progress, this.#create("p", "message"), error);
    const cancel = this.#create("button", "cancel", { type: "button" });
    const actions = this.#create("div", "actions", {}, cancel, this.#create("slot", "more", { name: "actions" }));
    return [
      this.#create("div", "head", {}, title, this.#create("span", "percent", { "aria-hidden": true })),
      this.#create("div", "track", progressbar, this.#create("div", "bar")),
      this.#create("div", "foot", {}, text, actions),
    ];
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
   * @param {"" | "enabled" | "requested"} state.cancel the cancel button: hidden, enabled, or already clicked
   * @param {number} state.now the server's time in ms
   */
  render(snapshot, { error, connection, cancel, now }) {
    const { message, error: alert, cancel: button } = this.#parts;
    this.#setText("kind", snapshot?.kind ?? "Job");
    this.#setText("status", snapshot ? statusText(snapshot) : error ? "" : "Connecting…");
    this.#setText("note", connection === "reconnecting" ? "Reconnecting…" : snapshot && nextStepText(snapshot, now));
    this.#setText("message", snapshot?.progress?.message);
    this.#setText("error", error);
    alert.hidden = !error;
    message.hidden = !!error;
    this.#renderProgress(snapshot);
    button.hidden = !cancel;
    button.disabled = cancel === "requested";
    this.#setText("cancel", button.disabled ? "Cancelling…" : "Cancel");
  }

  #renderProgress(snapshot) {
    const { track, bar } = this.#parts;
    const value = snapshot && percent(snapshot);
    this.#setText("amount", snapshot && amountText(snapshot));
    this.#setText("percent", snapshot && percentText(snapshot));
    bar.style.inlineSize = value === null ? "" : `${value}%`;
    const valueText = snapshot ? [percentText(snapshot), amountText(snapshot)].filter(Boolean).join(", ") : "";
    track.setAttribute("aria-valuetext", valueText || "not known");
    if (value === null) track.removeAttribute("aria-valuenow");
    else track.setAttribute("aria-valuenow", value);
  }

  /** Set a text if it has changed: a screen reader announces every write to a live region. */
  #setText(part, text) {
    if (this.#parts[part].textContent !== (text ?? "")) this.#parts[part].textContent = text ?? "";
  }
}
