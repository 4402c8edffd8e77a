/**
 * The table of jobs. Its rows are divisions with roles: as blocks on a narrow screen, they are still a table to screen
 * readers. A row that stays is not moved in the document, so it keeps its focus.
 */

import { arrange, h } from "/assets/dom.js";
import { JobListRow } from "/assets/job-list-row.js";
import { Selection } from "/assets/selection.js";

const NEAR_PX = "200px"; // rows this near to the window count as visible
const COLUMNS = { condition: "Status", what: "Job", progress: "Progress", attempt: "Attempt", wait: "Waited", work: "Took", age: "Age", error: "Error" };
const NUMBERS = ["attempt", "wait", "work", "age"];

export class JobTable {
  /** The ids of the selected jobs. */
  selection = new Selection();
  #canSelect;
  #rows = new Map(); // by id, in their order
  #visible = new Set(); // ids
  #observer;
  #lastToggled = null; // the id of the row that a click with Shift extends the selection from
  #selectAll = h("input", { type: "checkbox", "aria-label": "Select all rows", change: () => this.selection.toggle(this.rows, this.#selectAll.checked) });
  #age = null; // the heading of the last times
  #body = h("div", { role: "rowgroup", class: "rows" });

  /**
   * @param {object} options
   * @param {boolean} options.canSelect whether rows can be selected
   * @param {(ids: Set<string>) => void} options.onVisible called with the jobs whose rows are visible
   */
  constructor({ canSelect, onVisible }) {
    this.#canSelect = canSelect;
    const head = h("div", { role: "rowgroup", class: "head" }, this.#createHead());
    this.element = h("div", { role: "table", class: canSelect ? "jobs selectable" : "jobs", "aria-label": "Jobs", tabindex: -1 }, head, this.#body);
    this.element.addEventListener("click", (event) => this.#onClick(event));
    this.#observer = new IntersectionObserver((entries) => this.#onIntersection(entries, onVisible), { rootMargin: NEAR_PX });
    this.selection.onChange(() => this.#renderSelection());
  }

  #createHead() {
    const cells = Object.entries(COLUMNS).map(([name, text]) =>
      h("div", { role: "columnheader", class: NUMBERS.includes(name) ? `number ${name}` : name }, text));
    this.#age = cells[Object.keys(COLUMNS).indexOf("age")];
    const select = this.#canSelect && h("div", { role: "columnheader", class: "select" }, h("label", {}, this.#selectAll));
    return h("div", { role: "row", class: "row" }, select, ...cells);
  }

  close() {
    this.#observer.disconnect();
  }

  /** The ids of the rows, in their order. */
  get rows() {
    return [...this.#rows.keys()];
  }

  /** The snapshots of the rows that the window shows. */
  get visible() {
    return [...this.#visible].map((id) => this.#rows.get(id)?.snapshot).filter(Boolean);
  }

  /** The id of the row that has the focus, null if none has it. */
  get focused() {
    return document.activeElement?.closest("[data-id]")?.dataset.id ?? null;
  }

  /** Return the row of a job. */
  row(id) {
    return this.#rows.get(id);
  }

  /** Focus the row of a job: the link to it. */
  focusRow(id) {
    this.#rows.get(id)?.link.focus();
  }

  /** Show these rows in this order. The focus stays in its row; if that is removed, it goes to the row at its place. */
  arrange(ids) {
    const before = this.rows;
    if (ids.length === before.length && ids.every((id, index) => id === before[index])) return;
    const focused = before.indexOf(this.focused);
    for (const id of before) if (!ids.includes(id)) this.#observer.unobserve(this.#rows.get(id).element);
    const rows = new Map(ids.map((id) => [id, this.#rows.get(id) ?? new JobListRow(id, this.#canSelect)]));
    const added = ids.filter((id) => !this.#rows.has(id));
    this.#rows = rows;
    arrange(this.#body, ids, (id) => rows.get(id).element);
    for (const id of added) this.#observer.observe(rows.get(id).element);
    for (const id of this.#visible) if (!rows.has(id)) this.#visible.delete(id);
    this.selection.toggle([...this.selection].filter((id) => !rows.has(id)), false);
    this.#renderSelection();
    if (focused >= 0 && this.focused === null) this.#restoreFocus(before[focused], focused);
  }

  #restoreFocus(id, index) {
    const { rows } = this;
    if (this.#rows.has(id)) this.focusRow(id);
    else if (rows.length) this.focusRow(rows[Math.min(index, rows.length - 1)]);
    else this.element.focus();
  }

  /** Name the column of the last times: by their end, or by their submission. */
  nameTimes(isByEnd) {
    this.#age.textContent = isByEnd ? "Ended" : "Age";
  }

  #onIntersection(entries, onVisible) {
    for (const { target, isIntersecting } of entries) {
      const { id } = target.dataset;
      if (isIntersecting && this.#rows.has(id)) this.#visible.add(id);
      else this.#visible.delete(id);
    }
    onVisible(this.#visible);
  }

  /** Select a row by its checkbox; with Shift, all rows from the last one. */
  #onClick({ target, shiftKey }) {
    const id = target.type === "checkbox" && target.closest("[data-id]")?.dataset.id;
    if (!id) return;
    const { rows } = this;
    const [from, to] = [rows.indexOf(this.#lastToggled), rows.indexOf(id)].sort((one, other) => one - other);
    this.selection.toggle(shiftKey && from >= 0 ? rows.slice(from, to + 1) : [id], target.checked);
    this.#lastToggled = id;
  }

  #renderSelection() {
    const { size } = this.selection;
    for (const [id, row] of this.#rows) row.renderSelection(this.selection.has(id));
    this.#selectAll.checked = size > 0 && size === this.#rows.size;
    this.#selectAll.indeterminate = size > 0 && size < this.#rows.size;
  }
}
