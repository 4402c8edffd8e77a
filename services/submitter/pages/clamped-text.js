/** A text of a few lines, and a button that shows the rest of a longer one. */

import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

export class ClampedText {
  element;
  #text;
  #more;
  #isSteady;

  /**
   * @param {object} options
   * @param {string} options.id the id of the text
   * @param {string} options.moreId the id of the button
   * @param {boolean} [options.isSteady] whether an open text keeps its height, so that later ones do not move the page;
   *   otherwise a later one is closed. Without a text it is closed, too
   * @param {object} [options.attributes] of the text
   */
  constructor({ id, moreId, isSteady = false, attributes = {} }) {
    this.#isSteady = isSteady;
    this.#text = h("p", { id, ...attributes });
    const expanded = { "aria-expanded": "false", "aria-controls": id, hidden: true };
    const listeners = { click: () => this.#toggle(), blur: () => this.#updateButton() };
    this.#more = h("button", { id: moreId, type: "button", class: "plain link", ...expanded, ...listeners }, "Show all");
    this.element = h("div", { class: "clamped" }, this.#text, this.#more);
    new ResizeObserver(() => this.#updateButton()).observe(this.#text);
  }

  /** Show a text; return whether it is new. */
  show(text) {
    if (!setText(this.#text, text)) return false;
    if (this.#isOpen && !(this.#isSteady && text)) this.#toggle();
    this.#updateButton();
    return true;
  }

  get #isOpen() {
    return this.#more.ariaExpanded === "true";
  }

  /** Show the button while the text is cut or open. A button with the focus stays: hiding it would lose the focus. */
  #updateButton() {
    const isCut = this.#text.scrollHeight > this.#text.clientHeight + 1;
    this.#more.hidden = !isCut && !this.#isOpen && document.activeElement !== this.#more;
  }

  #toggle() {
    const open = !this.#isOpen;
    this.#more.ariaExpanded = String(open);
    setText(this.#more, open ? "Show less" : "Show all");
    this.#text.style.blockSize = "";
    if (open && this.#isSteady) this.#text.style.blockSize = `${this.#text.offsetHeight}px`;
    this.#text.tabIndex = open ? 0 : -1; // a long one scrolls
    this.#updateButton();
  }
}
