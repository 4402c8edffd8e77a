/**
 * The keys of the dashboard. A view binds its own; keys do nothing while a text is typed or a dialog is open.
 *
 * Keys without Ctrl can be turned off: software that recognizes speech would press them.
 */

const STORAGE_KEY = "headway-single-keys";
const OFF = "off";
const TEXT_FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";
const CONTROLS = "a[href], button, summary, input, select, textarea, [role=button], [role=option]";
const CONTROL_KEYS = new Set(["Enter", " "]); // which the control that has the focus handles itself

export class Keyboard {
  #bindings = []; // the last one of a key counts
  #pauses = 0;

  constructor() {
    addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** All keys that do something now, as `{key, label}`, for the help. */
  get shown() {
    return [...new Map(this.#bindings.map(({ key, label }) => [key, { key, label }])).values()];
  }

  /** Whether keys without Ctrl do something. */
  get singleKeys() {
    try {
      return localStorage.getItem(STORAGE_KEY) !== OFF;
    } catch {
      return true; // storage is unavailable
    }
  }

  set singleKeys(enabled) {
    try {
      if (enabled) localStorage.removeItem(STORAGE_KEY);
      else localStorage.setItem(STORAGE_KEY, OFF);
    } catch {
      // Storage is unavailable.
    }
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

  /** Ignore keys without Ctrl until a promise settles, because they are for what opens then. */
  async pause(promise) {
    this.#pauses++;
    try {
      return await promise;
    } finally {
      this.#pauses--;
    }
  }

  #onKey(event) {
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog:modal")) return;
    const hasModifier = event.ctrlKey || event.metaKey;
    const key = hasModifier ? `Ctrl+${event.shiftKey ? "Shift+" : ""}${event.key.toLowerCase()}` : event.key;
    const binding = this.#bindings.findLast((each) => each.key === key);
    if (!binding || (!hasModifier && !this.#isFree(event))) return;
    event.preventDefault();
    binding.run(event);
  }

  #isFree({ key, target }) {
    if (this.#pauses || !this.singleKeys || target.closest?.(TEXT_FIELDS)) return false;
    return !CONTROL_KEYS.has(key) || !target.closest?.(CONTROLS);
  }
}
