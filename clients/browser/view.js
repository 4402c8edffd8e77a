/** The inside of `<headway-job>`: its parts, and what each of them says of a job's state. */

import { CSS } from "./styles.js";
import { amount, figure, outlook, percent, status } from "./words.js";

let sheet; // of all elements; adopted, not written into the page, so that a strict policy lets it be

export class View {
  #parts = {};

  constructor(root, onCancel) {
    sheet ??= new CSSStyleSheet();
    if (!sheet.cssRules.length) sheet.replaceSync(CSS);
    root.adoptedStyleSheets = [sheet];
    root.append(...this.#build());
    this.#parts.cancel.addEventListener("click", onCancel);
  }

  /** Label and status are said together, so that in a list of jobs one hears which job it is that has ended. */
  #build() {
    const label = this.#make("span", "label", { id: "label" }, this.#make("slot", "kind"));
    const said = { role: "status", "aria-atomic": true };
    const title = this.#make("span", "title", said, label, this.#make("span", "status"));
    const bar = { role: "progressbar", "aria-labelledby": "label", "aria-valuemin": 0, "aria-valuemax": 100 };
    const progress = this.#make("p", "progress", {}, this.#make("span", "amount"), this.#make("span", "note"));
    const error = this.#make("p", "error", { role: "alert" });
    const text = this.#make("div", "text", {}, progress, this.#make("p", "message"), error);
    const cancel = this.#make("button", "cancel", { type: "button" });
    const actions = this.#make("div", "actions", {}, cancel, this.#make("slot", "more", { name: "actions" }));
    return [
      this.#make("div", "head", {}, title, this.#make("span", "percent", { "aria-hidden": true })),
      this.#make("div", "track", bar, this.#make("div", "bar")),
      this.#make("div", "foot", {}, text, actions),
    ];
  }

  #make(tag, part, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries({ part, ...attributes })) made.setAttribute(name, value);
    made.append(...children);
    return (this.#parts[part] = made);
  }

  /**
   * @param {?object} snapshot the newest one
   * @param {object} state
   * @param {string} state.error why the job cannot be seen, or how it failed; "" when all is well
   * @param {string} state.connection as `onConnection` tells it
   * @param {"" | "may" | "asked"} state.cancel whether there is a button, and whether it has been pressed
   * @param {number} state.now the server's clock
   */
  render(snapshot, { error, connection, cancel, now }) {
    const { message, error: alert, cancel: button } = this.#parts;
    this.#write("kind", snapshot?.kind ?? "Job");
    this.#write("status", snapshot ? status(snapshot) : error ? "" : "Connecting…");
    this.#write("note", connection === "reconnecting" ? "Reconnecting…" : snapshot && outlook(snapshot, now));
    this.#write("message", snapshot?.progress?.message);
    this.#write("error", error);
    alert.hidden = !error;
    message.hidden = !!error;
    this.#renderProgress(snapshot);
    button.hidden = !cancel;
    button.disabled = cancel === "asked";
    this.#write("cancel", button.disabled ? "Cancelling…" : "Cancel");
  }

  #renderProgress(snapshot) {
    const { track, bar } = this.#parts;
    const share = snapshot && percent(snapshot);
    this.#write("amount", snapshot && amount(snapshot));
    this.#write("percent", snapshot && figure(snapshot));
    bar.style.inlineSize = share === null ? "" : `${share}%`;
    const said = snapshot ? [figure(snapshot), amount(snapshot)].filter(Boolean).join(", ") : "";
    track.setAttribute("aria-valuetext", said || "not known");
    if (share === null) track.removeAttribute("aria-valuenow");
    else track.setAttribute("aria-valuenow", share);
  }

  /** Leave what has not changed alone, lest a screen reader says it again. */
  #write(part, text) {
    if (this.#parts[part].textContent !== (text ?? "")) this.#parts[part].textContent = text ?? "";
  }
}
