/** A table that is read again every few seconds, with its heading, why it may be outdated, and what it shows without rows. */

import { arrange, h, loadStyles, setAttribute } from "/assets/dom.js";
import { setText } from "/assets/text.js";

export class FleetTable {
  /** The rows that are shown, by key. */
  rows = new Map();
  #subject;
  #createRow;
  #marked = null; // the key of the row that the URL names
  #heading;
  #problem = h("p", { class: "problem", role: "status" });
  #body = h("tbody");
  #empty;
  #table;
  element;

  /**
   * @param {object} options
   * @param {string} options.title
   * @param {string} options.subject what the rows are, such as "workers"
   * @param {string[]} options.columns their titles; a column of buttons has none
   * @param {string} [options.className] of the table
   * @param {Node[]} [options.parts] what stands between the heading and the table
   * @param {Node[]} options.empty what is shown without rows
   * @param {(key: string) => {element: HTMLElement}} options.createRow
   */
  constructor({ title, subject, columns, className = "", parts = [], empty, createRow }) {
    loadStyles("empty-list.css");
    loadStyles("fleet-view.css");
    this.#subject = subject;
    this.#createRow = createRow;
    this.#heading = h("h1", { id: "fleet-title", tabindex: -1 }, title);
    this.#empty = h("div", { class: "empty", hidden: true }, empty);
    const head = h("tr", {}, columns.map((text) => (text ? h("th", { scope: "col" }, text) : h("td"))));
    this.#table = h("table", { class: `fleet ${className}`, "aria-labelledby": "fleet-title", hidden: true }, h("thead", {}, head), this.#body);
    this.element = h("section", { class: "fleet-view" }, this.#heading, this.#problem, parts, this.#empty, this.#table);
  }

  /** Say why the rows could not be read again, or else what is to be known about them, if there is anything. */
  showProblem(error, note = "") {
    const isForbidden = error?.status === 403;
    const reason = isForbidden ? `Only a key with the role operate shows the ${this.#subject}.` : `The ${this.#subject} cannot be read now. ${error?.message}`;
    setText(this.#problem, error ? reason : note);
    setAttribute(this.#table, "data-stale", Boolean(error));
  }

  /**
   * Show a row for each item, and forget the rows of others. If one of those has the focus, the heading gets it.
   *
   * @param {Map<string, object>} items by key
   * @param {(row: object, item: object) => void} render
   */
  show(items, render) {
    const hadFocus = this.#body.contains(document.activeElement);
    this.rows = arrange(this.#body, items.keys(), this.#createRow);
    if (hadFocus && !this.#body.contains(document.activeElement)) this.#heading.focus();
    for (const [key, item] of items) render(this.rows.get(key), item);
    this.#table.hidden = !items.size;
    this.#empty.hidden = items.size > 0;
    this.mark(this.#marked);
  }

  /** Mark the row that the URL names, now or as soon as it is shown. */
  mark(key) {
    this.#marked = key;
    for (const [each, { element }] of this.rows) setAttribute(element, "aria-current", each === key ? "true" : null);
  }
}
