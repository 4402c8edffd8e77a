/** The error of a job as its author wrote it, with the traceback, and what the job's users see of it. */

import { copyButton } from "/assets/copy-button.js";
import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

export class ErrorCard {
  #title = h("h2", { id: "error-title" }, "Error");
  #type = h("p", { class: "error-type", translate: "no" });
  #message = h("p", { class: "error-message", dir: "auto" });
  #traceback = h("pre", { tabindex: 0, role: "group", "aria-label": "Traceback", translate: "no" });
  #text = h("div", { id: "error-text", class: "error-text" }, this.#type, this.#message, this.#traceback);
  #more = h("button", { type: "button", class: "plain link", "aria-expanded": "false", "aria-controls": "error-text", click: () => this.#toggle() }, "Show all");
  #note = h("p", { class: "soft" });
  #copied = "";
  element = h(
    "section",
    { class: "card error-card", "data-tone": "failed", "aria-labelledby": "error-title", hidden: true },
    h("div", { class: "card-head" }, this.#title, copyButton("error", () => this.#copied)),
    this.#text,
    this.#more,
    this.#note,
  );

  constructor() {
    new ResizeObserver(() => this.#updateButton()).observe(this.#text);
    this.#more.addEventListener("blur", () => this.#updateButton());
  }

  /** Show the error of a job. Before its details are known, that is the error that users see. */
  render({ error: shown, status, attempt }, details) {
    const error = shown && (details?.error ?? shown);
    this.element.hidden = !error;
    if (!error) return;
    const { type, message, traceback = null } = error;
    setText(this.#title, status === "retrying" ? `Error of attempt ${attempt}` : "Error");
    setText(this.#type, type);
    setText(this.#message, message ?? "Its message was lost.");
    setText(this.#traceback, traceback);
    this.#traceback.hidden = !traceback;
    const isOther = type !== shown.type || message !== shown.message;
    setText(this.#note, isOther ? `Users see: ${shown.type}: ${shown.message}` : "");
    this.#note.hidden = !isOther;
    this.#copied = [`${type}: ${message ?? ""}`, traceback].filter(Boolean).join("\n\n");
    this.#updateButton();
  }

  get #isOpen() {
    return this.#more.getAttribute("aria-expanded") === "true";
  }

  #toggle() {
    this.#more.setAttribute("aria-expanded", !this.#isOpen);
    this.#text.toggleAttribute("data-open", this.#isOpen);
    setText(this.#more, this.#isOpen ? "Show less" : "Show all");
    this.#updateButton();
  }

  /** Offer the whole error if a part of it is hidden. The button does not disappear under the focus. */
  #updateButton() {
    const { scrollHeight, clientHeight } = this.#text;
    this.#more.hidden = scrollHeight <= clientHeight + 1 && !this.#isOpen && document.activeElement !== this.#more;
  }
}
