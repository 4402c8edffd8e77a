/**
 * Where the operator was in each entry of the browser's history: how far they had scrolled, and what had the focus.
 *
 * "Back" leads there again. Browsers do this themselves only for pages that are complete at once.
 */

const KEY = "headway-places";
const MAX_PLACES = 50;

export class Places {
  #places = read(); // the newest last
  /** The entry of the present URL. */
  entry = history.state?.entry ?? newEntry();

  constructor() {
    history.scrollRestoration = "manual";
    history.replaceState({ entry: this.entry }, "");
    addEventListener("pagehide", () => {
      this.leave();
      write([...this.#places].slice(-MAX_PLACES));
    });
  }

  /** Where the operator was when they left this entry, as `{top, focus}`; null if they come for the first time. */
  get left() {
    return this.#places.get(this.entry) ?? null;
  }

  /** Note where the operator is. */
  leave() {
    this.#places.delete(this.entry);
    this.#places.set(this.entry, { top: scrollY, focus: selectorOf(document.activeElement) });
  }

  /** Go to an entry, by default to a new one. */
  enter(entry = newEntry()) {
    this.entry = entry;
  }
}

function newEntry() {
  return `${Date.now()}-${Math.random()}`;
}

/** Return how to find an element again, null if it cannot be found: views create their elements again. */
function selectorOf(element) {
  if (element?.id && element.id !== "view") return `#${CSS.escape(element.id)}`;
  const href = element?.getAttribute?.("href");
  return href && element.closest("main") ? `main a[href="${CSS.escape(href)}"]` : null;
}

function read() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(KEY)) ?? []);
  } catch {
    return new Map(); // storage is unavailable or contains something else
  }
}

function write(places) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(places));
  } catch {
    // Storage is unavailable: after a reload, a page is at its top.
  }
}
