/** Shows the view that a URL names: loads its module, keeps the focus where it belongs, and says why there is no view. */

import { ApiError } from "/assets/api.js";
import { h } from "/assets/dom.js";

const HEADING = "main h1";
const FIRST_FIELD = "main [autofocus]"; // of a form that a view has opened
const LOADING_MS = 200; // until a page without a view says that one loads
const RESTORE_MS = 3000; // within which a view loads what it showed before
const USER_EVENTS = ["pointerdown", "keydown", "wheel", "touchstart"];

export class Views {
  #app;
  #modules;
  #main = null;
  #shown = null; // as `{name, page}`
  #place = null; // the view and the name of the last route
  #turn = 0; // a view that has loaded after another one was chosen is not shown
  #stopRestoring = () => {};

  /**
   * @param {object} app what the views share
   * @param {Record<string, () => Promise<{default: Function}>>} modules the views by name
   */
  constructor(app, modules) {
    this.#app = app;
    this.#modules = modules;
  }

  /** Show views in this element from now on. */
  open(main) {
    this.#main = main;
  }

  /** Close the view that is shown. */
  close() {
    this.#turn++;
    this.#stopRestoring();
    this.#shown?.page.close();
    this.#shown = this.#place = null;
  }

  /**
   * Show the view of a route.
   *
   * @param {object} route
   * @param {"link" | "replace" | "return"} arrival how the operator has come to it
   */
  async show(route, arrival) {
    const turn = ++this.#turn;
    let focused = document.activeElement;
    try {
      if (this.#shown?.name !== route.view) {
        const { default: Page } = await this.#load(route.view);
        if (turn !== this.#turn) return;
        this.#open(route.view, Page);
      }
      focused = document.activeElement;
      this.#shown.page.update(route);
    } catch (error) {
      if (turn !== this.#turn) return;
      console.error(error);
      this.#fail(error);
    }
    this.#arrive(route, arrival, focused !== document.activeElement && this.#main.contains(document.activeElement));
  }

  /** Load a view. The one before it stays meanwhile. */
  async #load(name) {
    const loading = () => this.#shown || this.#main.replaceChildren(h("p", { class: "soft", role: "status" }, "Loading…"));
    const timer = setTimeout(loading, LOADING_MS);
    try {
      return await loadModule(this.#modules[name]);
    } finally {
      clearTimeout(timer);
    }
  }

  #open(name, Page) {
    this.#shown?.page.close();
    this.#shown = null;
    this.#shown = { name, page: new Page(this.#app) };
    this.#main.replaceChildren(this.#shown.page.element);
  }

  #fail(error) {
    this.#shown?.page.close();
    this.#shown = null;
    document.title = "Headway";
    this.#main.replaceChildren(failure("This view could not be shown", error));
  }

  /**
   * Scroll and focus as after a page load, or as it was when the operator left; not for changes within a view, nor if the
   * view has focused something.
   */
  #arrive({ view, name, hash }, arrival, hasFocused) {
    const place = `${view}/${name}`;
    const isNew = place !== this.#place;
    this.#place = place;
    this.#stopRestoring();
    const left = arrival === "return" && this.#app.router.left;
    if (hasFocused) return;
    if (left) this.#whenReady(() => restore(left), () => restoreInPart(left));
    else if (isNew && arrival === "link") this.#whenReady(() => focusHeading(!hash));
  }

  /** Try until it succeeds, while the view loads what it shows and the operator does nothing else. */
  #whenReady(attempt, onFailure = () => {}) {
    if (attempt()) return;
    const observer = new MutationObserver(() => attempt() && stop());
    const closing = new AbortController();
    const stop = () => {
      observer.disconnect();
      closing.abort();
      clearTimeout(timer);
    };
    const timer = setTimeout(() => [stop(), onFailure()], RESTORE_MS);
    observer.observe(this.#main, { childList: true, subtree: true });
    for (const name of USER_EVENTS) addEventListener(name, stop, { signal: closing.signal, capture: true, passive: true });
    this.#stopRestoring = stop;
  }
}

/**
 * Load a module. Browsers may remember that this has failed, so only a new page tries again.
 *
 * @throws {ApiError}
 */
export async function loadModule(load) {
  try {
    return await load();
  } catch (cause) {
    const text = navigator.onLine ? "A part of the dashboard could not be loaded from the server." : "This browser is offline.";
    throw new ApiError(text, { cause });
  }
}

/** Return a page that says why nothing can be shown, for an operator without a view. */
export function failurePage(title, error) {
  return h("main", { class: "alone" }, failure(title, error));
}

function failure(title, error) {
  const text = error instanceof ApiError ? error.message : `The dashboard has an error: ${error.message}`;
  const reason = h("p", { role: "status" }, text);
  const retry = async () => {
    if (await isReachable()) location.reload();
    else reason.textContent = "The server cannot be reached yet.";
  };
  const again = h("button", { type: "button", class: "button main", click: retry }, "Try again");
  addEventListener("online", () => again.isConnected && retry(), { once: true });
  return h("section", { class: "failure" }, h("h1", {}, title), reason, again);
}

/** Return whether a new page can be loaded, so that an error page of the browser does not replace this one. */
async function isReachable() {
  const options = { method: "HEAD", cache: "no-store" };
  return fetch(location.href, options).then(({ ok }) => ok, () => false);
}

function focusHeading(scrolls) {
  const heading = document.querySelector(FIRST_FIELD) ?? document.querySelector(HEADING);
  if (!heading) return false;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  if (scrolls) scrollTo(0, 0);
  return true;
}

/** Scroll and focus as it was; return whether the view has what was there. */
function restore({ top, focus }) {
  const element = focus && document.querySelector(focus);
  const isThere = (element || !focus) && document.documentElement.scrollHeight - innerHeight >= top;
  if (!isThere) return false;
  scrollTo(0, top);
  element?.focus({ preventScroll: true });
  return true;
}

/** Scroll and focus as far as the view still has what was there. */
function restoreInPart({ top, focus }) {
  scrollTo(0, top);
  const element = focus && document.querySelector(focus);
  if (element) element.focus({ preventScroll: true });
  else if (document.activeElement === document.body) focusHeading(false);
}
