/** The keys of the dashboard. A view binds its own; keys do nothing while a text is typed or a dialog is open. */

const TEXT_FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";

export class Keyboard {
  #bindings = []; // the last one of a key counts

  constructor() {
    addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** All keys that do something now, as `{key, label}`, for the help. */
  get shown() {
    return [...new Map(this.#bindings.map(({ key, label }) => [key, { key, label }])).values()];
  }

  /**
   * Bind keys until the returned function is called.
   *
   * @param {Record<string, {label: string, run: (event: KeyboardEvent) => void}>} keys by `KeyboardEvent.key`; `Ctrl+k` also
   *   stands for Cmd and K, and works while a text is typed
   */
  bind(keys) {
    const bindings = Object.entries(keys).map(([key, binding]) => ({ key, ...binding }));
    this.#bindings.push(...bindings);
    return () => {
      this.#bindings = this.#bindings.filter((each) => !bindings.includes(each));
    };
  }

  #onKey(event) {
    if (event.defaultPrevented || event.isComposing || event.altKey) return;
    const hasModifier = event.ctrlKey || event.metaKey;
    const isBusy = event.target.closest?.(TEXT_FIELDS) || document.querySelector("dialog:modal");
    if (isBusy && !hasModifier) return;
    const key = hasModifier ? `Ctrl+${event.key.toLowerCase()}` : event.key;
    const binding = this.#bindings.findLast((each) => each.key === key);
    if (!binding) return;
    event.preventDefault();
    binding.run(event);
  }
}
