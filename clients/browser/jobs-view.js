/** The shadow DOM of `<headway-jobs>`: its rows, and how they move. */

import { JOBS_CSS } from "./jobs-styles.js";
import { JobRow } from "./job-row.js";
import { addStyles, setAttribute } from "./view.js";

const MOTION_MS = 250;
const MAX_SLIDE_PX = 300; // rows that move further fade in at their new place
const NEAR_PX = "200px"; // rows this near to the window count as visible
const ANNOUNCE_MS = 2_000; // at least, between two announcements
const MAX_NAMES = 2; // in an announcement

export class JobsView {
  parts = {};
  #root;
  #rows = new Map(); // by the job's id, in their order
  #visible = new Set(); // ids
  #observer;
  #isTopVisible = true;
  #announcement = { arrived: 0, ended: [] };
  #announceTimer = null;

  /**
   * @param {ShadowRoot} root
   * @param {{onVisible: (ids: Set<string>) => void, onTop: () => void}} callbacks `onVisible` is called with the jobs whose
   *   rows are visible, `onTop` when the top of the list has come into or left the window
   */
  constructor(root, { onVisible, onTop }) {
    this.#root = root;
    addStyles(root, JOBS_CSS);
    root.append(this.#build());
    this.#observer = new IntersectionObserver((entries) => this.#onIntersection(entries, onVisible), { rootMargin: NEAR_PX });
    new IntersectionObserver(([{ isIntersecting }]) => {
      this.#isTopVisible = isIntersecting;
      onTop();
    }).observe(this.parts.top);
  }

  #build() {
    const top = this.#create("div", "top", { "aria-hidden": true });
    const notice = this.#create("span", "notice");
    const fresh = this.#create("button", "fresh", { type: "button", hidden: "" });
    const jobs = this.#create("ul", "jobs", { role: "list", tabindex: -1, "aria-labelledby": "label" });
    const fallback = this.#create("span", "name", {}, "Jobs");
    const label = this.#create("div", "heading", { id: "label" }, this.#create("slot", "label", {}, fallback));
    const empty = this.#create("div", "empty", { hidden: "" });
    empty.append(this.#create("slot", "nothing", { name: "empty" }, "No jobs yet."));
    const error = this.#create("p", "problem", { role: "alert", hidden: "" });
    const older = this.#create("button", "older", { type: "button", hidden: "" });
    const announcer = this.#create("div", "announcer", { role: "status" });
    const bar = this.#create("div", "line", {}, notice, error, fresh);
    return this.#create("div", "list", {}, top, label, bar, jobs, empty, older, announcer);
  }

  #create(tag, part, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries({ part, ...attributes })) element.setAttribute(name, value);
    element.append(...children);
    return (this.parts[part] = element);
  }

  get visibleRows() {
    return [...this.#visible].map((id) => this.#rows.get(id)).filter(Boolean);
  }

  /** Whether the user is using the list by keyboard, or has scrolled down. */
  get isInUse() {
    const { activeElement } = this.#root;
    const focused = activeElement?.shadowRoot?.activeElement ?? activeElement;
    return !this.#isTopVisible || Boolean(focused?.matches(":focus-visible"));
  }

  row(id) {
    return this.#rows.get(id);
  }

  /** Show these rows in this order; `create` makes new ones. Rows that have moved slide or fade to their new place. */
  arrange(ids, create) {
    const { jobs, older } = this.parts;
    if (ids.join() === [...this.#rows.keys()].join()) return;
    const moving = () => [...jobs.children, older];
    const before = new Map(moving().map((element) => [element, element.offsetTop]));
    for (const [id, { item }] of this.#rows) if (!ids.includes(id)) this.#remove(id, item);
    this.#rows = new Map(ids.map((id) => [id, this.#rows.get(id) ?? create(id)]));
    [...this.#rows].forEach(([id, { item }], index) => {
      if (jobs.children[index] === item) return;
      item.dataset.id = id;
      jobs.insertBefore(item, jobs.children[index] ?? null);
      this.#observer.observe(item);
    });
    for (const element of moving()) animateMove(element, before.get(element));
  }

  #remove(id, item) {
    this.#observer.unobserve(item);
    this.#rows.delete(id);
    this.#visible.delete(id);
    item.remove();
  }

  #onIntersection(entries, onVisible) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.#visible.add(target.dataset.id);
      else this.#visible.delete(target.dataset.id);
    }
    onVisible(this.#visible);
  }

  /** Render all but the rows: notice, buttons, error, and that there are no jobs. */
  renderFrame({ jobs, notice, fresh, showsFresh, limit, hasMore, loading, error }) {
    const { empty, problem, fresh: freshButton, older } = this.parts;
    const hidden = new Map([
      [empty, !jobs || jobs.length > 0],
      [problem, !error],
      [freshButton, !fresh || !showsFresh],
      [older, !hasMore],
    ]);
    const loses = (element) => hidden.get(element) && element === this.#root.activeElement;
    if (loses(freshButton) || loses(older)) this.parts.jobs.focus({ preventScroll: true });
    for (const [element, isHidden] of hidden) element.hidden = isHidden;
    this.#setText("notice", notice);
    this.#setText("problem", error?.message ?? "");
    this.#setText("fresh", `${fresh}${fresh >= limit ? "+" : ""} new`);
    this.#setText("older", loading ? "Loading…" : "Show older");
    setAttribute(older, "aria-disabled", loading ? true : null);
  }

  /** Scroll to the newest job. */
  showTop() {
    if (!this.#isTopVisible) this.parts.list.scrollIntoView();
  }

  #setText(part, text) {
    const element = this.parts[part];
    if (element.textContent !== text) element.textContent = text;
  }

  /** Announce to screen readers that jobs have arrived or one has ended, together with what else happens soon. */
  announce({ arrived = 0, ended = [] }) {
    if (!arrived && !ended.length) return;
    this.#announcement.arrived += arrived;
    this.#announcement.ended.push(...ended);
    this.#announceTimer ??= setTimeout(() => {
      this.#announceTimer = null;
      this.parts.announcer.textContent = announcementText(this.#announcement);
      this.#announcement = { arrived: 0, ended: [] };
    }, ANNOUNCE_MS);
  }
}

function announcementText({ arrived, ended }) {
  const texts = ended.length > MAX_NAMES ? [`${ended.length} jobs ended`] : ended;
  return [...(arrived ? [arrived === 1 ? "1 new job" : `${arrived} new jobs`] : []), ...texts].join(". ");
}

/** Let an element slide to its new place, so that readers can follow it; let a new one, or one from far away, fade in. */
function animateMove(element, before) {
  const distance = before === undefined ? Infinity : before - element.offsetTop;
  if (!distance || !element.isConnected) return;
  const slides = Math.abs(distance) <= MAX_SLIDE_PX && !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const from = slides ? { transform: `translateY(${distance}px)` } : { opacity: 0 };
  element.animate([from, {}], { duration: MOTION_MS, easing: "ease-out" });
}
