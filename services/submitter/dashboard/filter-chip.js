/** A chip that opens a small window with the choices of a filter. */

import { h, setAttribute } from "/assets/dom.js";
import { setText } from "/assets/text.js";

const GAP_PX = 6; // between the chip and its window
const MARGIN_PX = 16; // between the window and the edge of the page

export class FilterChip {
  #label = h("bdi", {});
  #button = h("button", { type: "button", class: "chip", "aria-haspopup": "dialog" }, this.#label);
  #clear = h("a", { class: "clear", href: "#", click: () => this.#button.focus() }, "×");
  #panel = h("div", { popover: "auto", role: "dialog", class: "panel", click: (event) => this.#onClick(event) });
  element = h("span", { class: "filter" }, this.#button, this.#clear, this.#panel);

  /**
   * @param {string} name of the filter, such as "Kind"
   * @param {() => Promise<(Node | string)[]>} createContent called when the window opens
   */
  constructor(name, createContent) {
    setAttribute(this.#panel, "aria-label", name);
    setAttribute(this.#clear, "aria-label", `Remove the filter: ${name}`);
    this.#button.popoverTargetElement = this.#panel;
    this.#panel.addEventListener("toggle", ({ newState }) => newState === "open" && this.#onOpen(createContent));
    this.#panel.addEventListener("submit", () => this.close());
  }

  /**
   * @param {string} text of the chip
   * @param {string} clearHref where the list without this filter is; "" unless it is set
   */
  render(text, clearHref) {
    setText(this.#label, text);
    setAttribute(this.element, "data-set", Boolean(clearHref));
    this.#clear.hidden = !clearHref;
    if (clearHref) setAttribute(this.#clear, "href", clearHref);
  }

  close() {
    if (this.#panel.matches(":popover-open")) this.#panel.hidePopover();
  }

  async #onOpen(createContent) {
    this.#panel.replaceChildren(h("p", { class: "soft" }, "Loading…"));
    this.#place();
    const content = await createContent().catch(() => [h("p", { class: "problem" }, "The choices could not be loaded; try again.")]);
    this.#panel.replaceChildren(...content);
    this.#place();
    this.#panel.querySelector("[aria-current], input, a")?.focus({ preventScroll: true });
  }

  /** Place the window below its chip, within the page, whose width may change. */
  #place() {
    const chip = this.#button.getBoundingClientRect();
    this.#panel.style.insetInlineStart = "auto";
    this.#panel.style.left = `max(${MARGIN_PX}px, min(${chip.left}px, 100% - ${this.#panel.offsetWidth + MARGIN_PX}px))`;
    this.#panel.style.top = `${scrollY + chip.bottom + GAP_PX}px`;
  }

  #onClick({ target }) {
    if (target.closest("a")) this.close();
  }
}
