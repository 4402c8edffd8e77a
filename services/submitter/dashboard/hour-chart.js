/** The hours of the last day, with the jobs that ended in each and those that failed. A click shows one hour. */

import { arrange, h, setAttribute } from "/assets/dom.js";
import { timeZone } from "/assets/job-filter.js";
import { setText } from "/assets/text.js";

const HOUR_MS = 3_600_000;
const MIN_SHARE = 0.05; // of the height: one failure among thousands is seen, too
const KEYS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

export class HourChart {
  #bars = h("div", { class: "bars", role: "toolbar", "aria-label": "Hours", keydown: (event) => this.#onKey(event) });
  #summaryText = h("span", {});
  #hourText = h("span", {}); // of the hour that is pointed at, in the place of the summary
  #caption = h("figcaption", {}, this.#summaryText, this.#hourText);
  element = h("figure", { class: "hours" }, this.#bars, this.#caption);
  #hours = []; // of the bars
  #json = "";

  constructor() {
    for (const type of ["pointerover", "pointerout", "focusin", "focusout"]) this.#bars.addEventListener(type, (event) => this.#onPoint(event));
  }

  /**
   * @param {?object[]} hours the oldest first; null before they are known
   * @param {import("./job-filter.js").JobFilter} filter
   */
  render(hours, filter) {
    const json = JSON.stringify([hours, filter.href()]);
    if (json === this.#json) return;
    this.#json = json;
    this.#hours = hours ?? [];
    const most = Math.max(1, ...this.#hours.map(ended));
    arrange(this.#bars, this.#hours.map(({ hour }) => hour), createBar);
    [...this.#bars.children].forEach((bar, index) => renderBar(bar, this.#hours[index], most, filter));
    this.#setTabStop(this.#bars.querySelector("[tabindex='0']") ?? this.#bars.lastElementChild);
    setText(this.#summaryText, hours ? summaryOf(hours, filter) : "");
  }

  /** Show the numbers of the hour that is pointed at. */
  #onPoint({ type, target }) {
    const bar = type === "pointerover" || type === "focusin" ? target.closest("a") : document.activeElement?.closest(".bars a");
    setText(this.#hourText, bar?.getAttribute("aria-label") ?? "");
  }

  #onKey(event) {
    const bars = [...this.#bars.children];
    const step = KEYS[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const index = Math.min(bars.length - 1, Math.max(0, bars.indexOf(event.target.closest("a")) + step));
    this.#setTabStop(bars[index]);
    bars[index].focus();
  }

  /** Let the tab key reach one bar; the arrow keys reach the others. */
  #setTabStop(bar) {
    for (const each of this.#bars.children) each.tabIndex = each === bar ? 0 : -1;
  }
}

function createBar() {
  return h("a", { href: "#" }, h("span", { class: "failed" }), h("span", { class: "ended" }));
}

function renderBar(bar, hour, most, filter) {
  const since = new Date(hour.hour).toISOString();
  const until = new Date(Date.parse(hour.hour) + HOUR_MS).toISOString();
  const isShown = filter.get("since") === since && filter.get("until") === until;
  const [failed, others] = [hour.failed, ended(hour) - hour.failed].map((count) => (count ? Math.max(MIN_SHARE, count / most) : 0));
  bar.firstChild.style.blockSize = `${100 * failed}%`;
  bar.lastChild.style.blockSize = `${100 * Math.min(others, 1 - failed)}%`;
  setAttribute(bar, "href", filter.hrefOfTime(isShown ? {} : { since, until }));
  setAttribute(bar, "aria-current", isShown ? "true" : null);
  setAttribute(bar, "aria-label", hourText(hour));
}

function ended({ succeeded, failed, cancelled }) {
  return succeeded + failed + cancelled;
}

/** Return the numbers of an hour, such as "19:00 – 20:00: 61 ended, 12 of them failed". */
function hourText(hour) {
  const start = new Date(hour.hour);
  const range = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" }).formatRange(start, new Date(start.getTime() + HOUR_MS));
  const failed = hour.failed ? `, ${hour.failed.toLocaleString()} of them failed` : "";
  return `${range}: ${ended(hour).toLocaleString()} ended${failed}`;
}

/** Return what the bars show, for those who do not see them; the numbers are approximate. */
function summaryOf(hours, filter) {
  const [all, failed] = [hours.map(ended), hours.map((hour) => hour.failed)].map((counts) => counts.reduce((sum, count) => sum + count, 0));
  const worst = hours.reduce((most, hour) => (hour.failed > most.failed ? hour : most), { failed: 0 });
  const peak = worst.failed ? `, most of them at ${new Date(worst.hour).toLocaleTimeString(undefined, { hour: "numeric", minute: "2-digit" })}` : "";
  if (!all) return `No job has ended in the last 24 hours. Times: ${timeZone}.`;
  const total = `About ${all.toLocaleString()} ${all === 1 ? "job has" : "jobs have"} ended in the last 24 hours`;
  const scope = filter.hasOther("kind", "range", "since", "until") ? " The hours count jobs that other filters leave out." : "";
  return `${total}${failed ? `, and ${failed.toLocaleString()} failed${peak}` : ""}. Times: ${timeZone}.${scope}`;
}
