/** What is cut after some lines, and a button that shows the rest. */

import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

/** A button that shows all of an element whose content may be cut. It is measured when its size changes. */
export class MoreButton {
  element;
  #content;
  #onToggle;

  /**
   * @param {HTMLElement} content has an id; the style sheet cuts it unless the button is expanded
   * @param {object} [options]
   * @param {string} [options.id] of the button
   * @param {(isOpen: boolean) => void} [options.onToggle]
   */
  constructor(content, { id, onToggle = () => {} } = {}) {
    this.#content = content;
    this.#onToggle = onToggle;
    const expanded = { "aria-expanded": "false", "aria-controls": content.id, hidden: true };
    this.element = h("button", { id, type: "button", class: "plain link", ...expanded, click: () => this.toggle(), blur: () => this.update() }, "Show all");
    new ResizeObserver(() => this.update()).observe(content);
  }

  get isOpen() {
    return this.element.ariaExpanded === "true";
  }

  /**
   * Show the button while the content is cut or open; call this when the content has changed. A button with the focus
   * stays: hiding it would lose the focus.
   */
  update() {
    const isCut = this.#content.scrollHeight > this.#content.clientHeight + 1;
    this.element.hidden = !isCut && !this.isOpen && document.activeElement !== this.element;
  }

  toggle() {
    this.element.ariaExpanded = String(!this.isOpen);
    setText(this.element, this.isOpen ? "Show less" : "Show all");
    this.#onToggle(this.isOpen);
    this.update();
  }
}

/** A text of a few lines, and a button that shows the rest of a longer one. */
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
    this.#more = new MoreButton(this.#text, { id: moreId, onToggle: (isOpen) => this.#onToggle(isOpen) });
    this.element = h("div", { class: "clamped" }, this.#text, this.#more.element);
  }

  /** Show a text; return whether it is new. */
  show(text) {
    if (!setText(this.#text, text)) return false;
    if (this.#more.isOpen && !(this.#isSteady && text)) this.#more.toggle();
    this.#more.update();
    return true;
  }

  #onToggle(isOpen) {
    this.#text.style.blockSize = "";
    if (isOpen && this.#isSteady) this.#text.style.blockSize = `${this.#text.offsetHeight}px`;
    this.#text.tabIndex = isOpen ? 0 : -1; // a long one scrolls
  }
}
