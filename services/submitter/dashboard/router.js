/** The views of the dashboard and their URLs, which reloads, links and the browser's history lead back to. */

const ROOT = "/dashboard";
const PATTERNS = [
  ["jobs", /^$/],
  ["job", /^\/jobs\/([^/]+)$/],
  ["kinds", /^\/kinds(?:\/([^/]+))?$/],
  ["workers", /^\/workers$/],
  ["poison", /^\/poison$/],
];

/**
 * Return what a URL shows.
 *
 * @param {URL | Location} url
 * @returns {{view: string, name: ?string, query: URLSearchParams, hash: string}} the view, `jobs` for an unknown URL; the
 *   id of the job or the kind in the path; the parameters; and what follows the `#`
 */
export function routeOf({ pathname, search, hash }) {
  const path = pathname.replace(ROOT, "").replace(/\/$/, "");
  for (const [view, pattern] of PATTERNS) {
    const match = pattern.exec(path);
    if (match) return { view, name: match[1] ? decode(match[1]) : null, query: new URLSearchParams(search), hash: hash.slice(1) };
  }
  return { view: "jobs", name: null, query: new URLSearchParams(), hash: "" };
}

/** Return the URL of a view, such as `urlOf("job", {name: id})`; an empty parameter is left out. */
export function urlOf(view, { name = null, query = {}, hash = "" } = {}) {
  const path = { jobs: "", job: `/jobs/${name}`, kinds: name ? `/kinds/${encodeURIComponent(name)}` : "/kinds" }[view] ?? `/${view}`;
  const entries = query instanceof URLSearchParams ? [...query] : Object.entries(query).flatMap(([key, value]) => [value].flat().map((each) => [key, each]));
  const parameters = new URLSearchParams(entries.filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return `${ROOT}${path}${parameters.size ? `?${parameters}` : ""}${hash && `#${hash}`}`;
}

export class Router {
  #onRoute;

  /** @param {(route: object) => void} onRoute called with the route of each new URL, as `routeOf` returns it */
  constructor(onRoute) {
    this.#onRoute = onRoute;
    addEventListener("popstate", () => this.#changed());
    document.addEventListener("click", (event) => this.#onClick(event));
  }

  get route() {
    return routeOf(location);
  }

  /** Show a URL of the dashboard; with `replace`, "back" does not lead to the present one. */
  navigate(href, { replace = false } = {}) {
    if (replace) history.replaceState(null, "", href);
    else history.pushState(null, "", href);
    this.#changed();
  }

  #changed() {
    this.#onRoute(this.route);
  }

  /** Follow a link of the dashboard without loading the page, unless the user wants a new tab. */
  #onClick(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const isOwn = link.origin === location.origin && (link.pathname === ROOT || link.pathname.startsWith(`${ROOT}/`));
    if (!isOwn || link.target || link.hasAttribute("download")) return;
    event.preventDefault();
    this.navigate(link.href);
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
