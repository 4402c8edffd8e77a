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
  #typed = null; // the text that is typed while a dialog loads

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

  /** Wait for a promise. What is typed meanwhile is for what opens then: return it with the promise's value. */
  async collect(promise) {
    this.#typed = "";
    try {
      return { value: await promise, typed: this.#typed };
    } finally {
      this.#typed = null;
    }
  }

  #onKey(event) {
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog:modal")) return;
    const hasModifier = event.ctrlKey || event.metaKey;
    if (this.#typed !== null && !hasModifier) return this.#collect(event);
    const key = hasModifier ? `Ctrl+${event.shiftKey ? "Shift+" : ""}${event.key.toLowerCase()}` : event.key;
    const binding = this.#bindings.findLast((each) => each.key === key);
    if (!binding || (!hasModifier && !this.#isFree(event))) return;
    event.preventDefault();
    binding.run(event);
  }

  #collect(event) {
    const { key } = event;
    if (key === "Backspace") this.#typed = this.#typed.slice(0, -1);
    else if (key.length === 1) this.#typed += key;
    else if (key !== "Enter") return;
    event.preventDefault();
  }

  #isFree({ key, target }) {
    if (!this.singleKeys || target.closest?.(TEXT_FIELDS)) return false;
    return !CONTROL_KEYS.has(key) || !target.closest?.(CONTROLS);
  }
}
