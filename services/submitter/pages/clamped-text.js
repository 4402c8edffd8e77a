/** A text of a few lines, and a button that shows the rest of a longer one. */

import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

export class ClampedText {
  element;
  #text;
  #more;

  /** @param {{id: string, moreId: string, attributes?: object}} options the ids of the text and the button */
  constructor({ id, moreId, attributes = {} }) {
    this.#text = h("p", { id, ...attributes });
    const expanded = { "aria-expanded": "false", "aria-controls": id, hidden: true };
    const listeners = { click: () => this.#toggle(), blur: () => this.#updateButton() };
    this.#more = h("button", { id: moreId, type: "button", class: "plain link", ...expanded, ...listeners }, "Show all");
    this.element = h("div", { class: "clamped" }, this.#text, this.#more);
    new ResizeObserver(() => this.#updateButton()).observe(this.#text);
  }

  /** Show a text; return whether it is new. */
  show(text) {
    const isNew = setText(this.#text, text);
    if (isNew) this.#updateButton();
    return isNew;
  }

  get #isOpen() {
    return this.#more.ariaExpanded === "true";
  }

  /** Show the button while the text is cut or open. A button with the focus stays: hiding it would lose the focus. */
  #updateButton() {
    const isCut = this.#text.scrollHeight > this.#text.clientHeight + 1;
    this.#more.hidden = !isCut && !this.#isOpen && document.activeElement !== this.#more;
  }

  /** Open or close the text. An open one keeps its height, so that later texts do not move the page. */
  #toggle() {
    const open = !this.#isOpen;
    this.#more.ariaExpanded = String(open);
    setText(this.#more, open ? "Show less" : "Show all");
    this.#text.style.blockSize = "";
    if (open) this.#text.style.blockSize = `${this.#text.offsetHeight}px`;
    this.#text.tabIndex = open ? 0 : -1; // a long one scrolls
    this.#updateButton();
  }
}
