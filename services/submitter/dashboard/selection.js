/** The selected jobs: a set of ids that says when it has changed. */

export class Selection extends Set {
  #listeners = new Set();

  /** Call a function after each change, until the returned function is called. */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  add(id) {
    if (!this.has(id)) this.#changed(() => super.add(id));
    return this;
  }

  delete(id) {
    return this.has(id) && this.#changed(() => super.delete(id));
  }

  clear() {
    if (this.size) this.#changed(() => super.clear());
  }

  /** Select some jobs, or no longer: one change. */
  toggle(ids, isSelected) {
    const changing = ids.filter((id) => this.has(id) !== isSelected);
    if (changing.length) this.#changed(() => changing.forEach((id) => (isSelected ? super.add(id) : super.delete(id))));
  }

  #changed(change) {
    const result = change();
    for (const listener of this.#listeners) listener();
    return result;
  }
}
