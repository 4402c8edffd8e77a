/** The tabs of the statuses, with the numbers of jobs that each would show. */

import { h, setAttribute } from "/assets/dom.js";
import { setText } from "/assets/text.js";

const TABS = {
  __proto__: null, // a status of the URL may be "constructor"
  "": "All",
  queued: "Queued",
  running: "Running",
  retrying: "Retrying",
  failed: "Failed",
  cancelled: "Cancelled",
  succeeded: "Succeeded",
};
export const STATUSES = Object.keys(TABS).filter(Boolean);
const REVEAL_PX = 64; // of the tab before the one that is shown

export class StatusTabs {
  #tabs = Object.entries(TABS).map(([status, text]) => {
    const count = h("span", { class: "count" });
    return { status, count, link: h("a", { href: "#" }, text, " ", count) };
  });
  element = h("nav", { class: "tabs", "aria-label": "Status", focusin: ({ target }) => this.#onFocus(target) }, ...this.#tabs.map(({ link }) => link));

  /**
   * @param {import("./job-filter.js").JobFilter} filter
   * @param {import("./job-counts.js").JobCounts} counts
   * @param {?{count: number, hasMore: boolean}} shown how many jobs the list shows, null while it loads
   */
  render(filter, counts, shown) {
    const current = filter.get("status");
    for (const { status, link, count } of this.#tabs) {
      const isCurrent = status === current;
      setAttribute(link, "href", filter.href({ status, group: null, error_type: status === "failed" ? filter.get("error_type") : null }));
      if (isCurrent && !link.ariaCurrent) this.#reveal(link);
      setAttribute(link, "aria-current", isCurrent ? "page" : null);
      const counted = counts.of(filter, status);
      const isListed = isCurrent && shown && (!shown.hasMore || counted === null);
      const number = isListed ? shown.count : counted;
      const text = number === null ? "" : number.toLocaleString();
      setText(count, isListed && shown.hasMore ? `${text}+` : text);
      setAttribute(link, "title", number === null || isListed ? null : `About ${text}`);
    }
  }

  /** Show the whole tab that the keyboard has reached: browsers scroll only to what is not visible at all. */
  #onFocus(link) {
    if (link.matches(":focus-visible")) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Scroll the tabs of a narrow window to one of them, as soon as they have a size; the page stays. */
  #reveal(link) {
    requestAnimationFrame(() => this.element.scrollTo({ left: link.offsetLeft - this.element.offsetLeft - REVEAL_PX }));
  }
}

/** Return what people call the jobs of a list, such as "Failed jobs". */
export function listTitle(status) {
  if (!status) return "Jobs";
  return `${status.split(",").map((each) => TABS[each] ?? each).join(", ")} jobs`;
}
