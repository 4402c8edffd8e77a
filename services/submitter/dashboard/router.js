/** The views of the dashboard and their URLs, which reloads, links and the browser's history lead back to. */

import { withParameters } from "/assets/api.js";
import { Places } from "/assets/places.js";

const ROOT = "/dashboard";
const PATTERNS = [
  ["jobs", /^(?:\/jobs)?$/],
  ["job", /^\/jobs\/([^/]+)$/],
  ["kinds", /^\/kinds(?:\/([^/]+))?$/],
  ["workers", /^\/workers$/],
  ["poison", /^\/poison$/],
];

/**
 * Return what a URL shows.
 *
 * @param {URL | Location} url
 * @returns {{view: string, name: ?string, query: URLSearchParams, hash: string}} the view, `missing` for an unknown URL; the
 *   id of the job or the kind in the path; the parameters; and what follows the `#`
 */
function routeOf({ pathname, search, hash }) {
  const path = pathname.replace(ROOT, "").replace(/\/$/, "");
  for (const [view, pattern] of PATTERNS) {
    const match = pattern.exec(path);
    if (match) return { view, name: match[1] ? decode(match[1]) : null, query: new URLSearchParams(search), hash: hash.slice(1) };
  }
  return { view: "missing", name: null, query: new URLSearchParams(), hash: "" };
}

/** Return the URL of a view, such as `urlOf("job", {name: id})`; an empty parameter is left out. */
export function urlOf(view, { name = null, query = {}, hash = "" } = {}) {
  const folder = { jobs: "", job: "/jobs" }[view] ?? `/${view}`;
  const path = name === null ? folder : `${folder}/${encodeURIComponent(name)}`;
  return `${withParameters(`${ROOT}${path}`, query)}${hash && `#${hash}`}`;
}

export class Router {
  #onRoute;
  #places = new Places();

  /**
   * @param {(route: object, arrival: "link" | "replace" | "return") => void} onRoute called with the route of each new
   *   URL, as `routeOf` returns it, and how the operator has come to it
   */
  constructor(onRoute) {
    this.#onRoute = onRoute;
    addEventListener("popstate", () => {
      this.leave();
      this.#places.enter(history.state?.entry);
      onRoute(this.route, "return");
    });
    document.addEventListener("click", (event) => this.#onClick(event));
  }

  get route() {
    return routeOf(location);
  }

  /** Where the operator was when they left what the URL shows, as `{top, focus}`; null if they come for the first time. */
  get left() {
    return this.#places.left;
  }

  /** Note where the operator is, before something else is shown. */
  leave() {
    this.#places.leave();
  }

  /** Show a URL of the dashboard; with `replace`, "back" does not lead to the present one. */
  navigate(href, { replace = false } = {}) {
    if (!replace) this.leave();
    if (!replace) this.#places.enter();
    const state = { entry: this.#places.entry };
    if (replace) history.replaceState(state, "", href);
    else history.pushState(state, "", href);
    this.#onRoute(this.route, replace ? "replace" : "link");
  }

  /** Follow a link of the dashboard without loading the page, unless the user wants a new tab. */
  #onClick(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const isOwn = link.origin === location.origin && (link.pathname === ROOT || link.pathname.startsWith(`${ROOT}/`));
    if (!isOwn || link.target || link.hasAttribute("download")) return;
    event.preventDefault();
    this.navigate(link.href, { replace: link.href === location.href });
  }
}

/** Return a part of a URL decoded, or as it is if it is not encoded. */
export function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
