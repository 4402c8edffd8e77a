/** The error of a job as its author wrote it, with the traceback, and what the job's users see of it. */

import { MoreButton } from "/assets/clamped-text.js";
import { copyButton } from "/assets/copy-button.js";
import { h } from "/assets/dom.js";
import { errorName, errorText } from "/assets/format.js";
import { setText } from "/assets/text.js";

export class ErrorCard {
  #title = h("h2", { id: "error-title" }, "Error");
  #type = h("p", { class: "error-type", translate: "no" });
  #message = h("p", { class: "error-message", dir: "auto" });
  #traceback = h("pre", { tabindex: 0, role: "group", "aria-label": "Traceback", translate: "no" });
  #text = h("div", { id: "error-text", class: "error-text" }, this.#type, this.#message, this.#traceback);
  #more = new MoreButton(this.#text);
  #note = h("p", { class: "soft" });
  #copied = "";
  element = h(
    "section",
    { class: "card error-card", "data-tone": "failed", "aria-labelledby": "error-title", hidden: true },
    h("div", { class: "card-head" }, this.#title, copyButton("error", () => this.#copied)),
    this.#text,
    this.#more.element,
    this.#note,
  );

  /** Show the error of a job. Before its details are known, that is the error that users see. */
  render({ error: shown, status, attempt }, details) {
    const error = shown && (details?.error ?? shown);
    this.element.hidden = !error;
    if (!error) return;
    const { type, message, traceback = null } = error;
    setText(this.#title, status === "retrying" ? `Error of attempt ${attempt}` : "Error");
    const texts = [[this.#type, errorName(type, message)], [this.#message, message ?? "Its message was lost."], [this.#traceback, traceback]];
    const isNew = texts.map(([element, text]) => setText(element, text)).some(Boolean);
    this.#traceback.hidden = !traceback;
    const isOther = type !== shown.type || message !== shown.message;
    setText(this.#note, isOther ? `Users see: ${errorText(shown)}` : "");
    this.#note.hidden = !isOther;
    this.#copied = [errorText(error), traceback].filter(Boolean).join("\n\n");
    if (isNew) this.#more.update();
  }
}
