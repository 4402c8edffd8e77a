/** The keys that act on the row with the focus. They also do so after the focus was elsewhere: `j` and `k` lead back. */

export class TableKeys {
  #table;
  #last = null; // the id of the row that had the focus last
  #unbind;

  /**
   * @param {import("/assets/keyboard.js").Keyboard} keyboard
   * @param {object} table
   * @param {HTMLElement} table.element contains the rows
   * @param {string[]} table.rows the ids of the rows, in their order
   * @param {?string} table.focused the id of the row that has the focus
   * @param {(id: string) => void} table.focusRow moves the focus to a row
   * @param {Record<string, {label: string, run: (id: string) => void}>} keys what other keys do with the row
   */
  constructor(keyboard, table, keys) {
    this.#table = table;
    table.element.addEventListener("focusin", () => {
      this.#last = table.focused ?? this.#last;
    });
    const bindings = { j: { label: "Next row", run: () => this.#move(1) }, k: { label: "Previous row", run: () => this.#move(-1) } };
    for (const [key, { label, run }] of Object.entries(keys)) bindings[key] = { label, run: () => this.#run(run) };
    this.#unbind = keyboard.bind(bindings);
  }

  close() {
    this.#unbind();
  }

  /** Move the focus to the row that had it last, or to the first one. */
  focus() {
    const { rows } = this.#table;
    const id = rows.includes(this.#last) ? this.#last : rows[0];
    if (id) this.#table.focusRow(id);
    else this.#table.element.focus();
  }

  #move(step) {
    const { rows, focused } = this.#table;
    const index = rows.indexOf(focused ?? this.#last);
    const next = focused === null ? Math.max(index, 0) : index + step; // first back to the row that had the focus
    if (rows[next]) this.#table.focusRow(rows[next]);
  }

  #run(run) {
    if (this.#table.focused !== null) run(this.#table.focused);
  }
}
