/** The filters of the list: a chip for each. What they select is in the URL. */

import { h, loadStyles, setAttribute } from "/assets/dom.js";
import { FilterChip } from "/assets/filter-chip.js";
import { limitsText, RANGES } from "/assets/job-filter.js";
import { setText } from "/assets/text.js";

/** What people call the least number of attempts. */
export const ATTEMPTS = { __proto__: null, 2: "More than one attempt", 3: "3 or more attempts", 5: "5 or more attempts" };

export class Filters {
  #app;
  #counts;
  #filter = null;
  #chips = Object.fromEntries(["Time", "Kind", "Owner", "Tag", "Attempts", "Error"].map((name) => [name, new FilterChip(name, () => this.#choices(name))]));
  #clear = h("a", { class: "soft", href: "#", click: () => this.element.querySelector("button").focus() }, "Clear filters");
  #grouping = h("a", { class: "chip grouping" });
  element = h("div", { class: "filters", role: "group", "aria-label": "Filters" }, ...Object.values(this.#chips).map(({ element }) => element), this.#clear, this.#grouping);

  /**
   * @param {object} app
   * @param {import("./job-counts.js").JobCounts} counts
   */
  constructor(app, counts) {
    this.#app = app;
    this.#counts = counts;
  }

  /** @param {import("./job-filter.js").JobFilter} filter */
  render(filter) {
    this.#filter = filter;
    const { tags, kind } = filter;
    const [owner, attempts, error] = ["owner", "attempts_min", "error_type"].map((name) => filter.get(name));
    const hasTime = ["range", "since", "until"].some((name) => filter.get(name));
    this.#render("Time", RANGES[filter.range] ?? limitsText(filter.limits), hasTime && { range: null, since: null, until: null });
    this.#render("Kind", kind ? `Kind: ${kind}` : "Kind", kind && { kind: null });
    this.#render("Owner", owner ? `Owner: ${owner}` : "Owner", owner && { owner: null });
    this.#render("Tag", tags.length ? `${tags.length > 1 ? "Tags" : "Tag"}: ${tags.join(", ")}` : "Tag", tags.length && { tag: null });
    this.#render("Attempts", attempts ? (ATTEMPTS[attempts] ?? `${attempts} or more attempts`) : "Attempts", attempts && { attempts_min: null });
    this.#render("Error", error ? `Error: ${error}` : "Error", error && { error_type: null });
    setText(this.#grouping, filter.isGrouped ? "Show the jobs" : "Group failures");
    setAttribute(this.#grouping, "href", filter.href({ group: filter.isGrouped ? null : "failures", status: "failed" }));
    this.#clear.hidden = !filter.isNarrowed;
    setAttribute(this.#clear, "href", filter.clearedHref);
  }

  /** Show a filter; `cleared` has the parameters of the list without it, and is empty unless it is set. */
  #render(name, text, cleared) {
    this.#chips[name].render(text, cleared ? this.#filter.href(cleared) : "");
  }

  /** Create the choices of a filter; their module is loaded when a window opens for the first time. */
  async #choices(name) {
    const [{ createChoices }] = await Promise.all([import("/assets/filter-choices.js"), loadStyles("filter-choices.css")]);
    return createChoices[name]({ app: this.#app, counts: this.#counts, filter: this.#filter });
  }
}
