/** The frame of the dashboard: its brand, the links to the views, and whether what they show is live. */

import { h, setAttribute } from "/assets/dom.js";
import { ageText } from "/assets/format.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

const LINKS = { jobs: "Jobs", kinds: "Kinds", workers: "Workers", poison: "Poison" };
const POLL_MS = 5000;
const LIVE_MS = 12_000; // after the notifier was last heard
const TICK_MS = 1000;

export class Shell {
  /** Where the view is shown. */
  main = h("main", { id: "view", tabindex: -1 });
  #app;
  #links = {};
  #live = h("span", { class: "live", role: "status" });
  #queue = h("span");
  #oldest = h("span");
  #timers = [];

  constructor(app) {
    this.#app = app;
    const links = Object.entries(LINKS).map(([view, text]) => this.#link(view, text));
    const brand = h("a", { class: "brand", href: urlOf("jobs") }, h("img", { src: "/assets/icon.svg", alt: "", width: 24, height: 24 }), "Headway");
    const nav = h("nav", { "aria-label": "Dashboard" }, ...links);
    const rail = h("header", { class: "rail" }, brand, nav, h("div", { class: "state" }, this.#live, this.#queue, this.#oldest));
    this.element = h("div", { class: "shell" }, rail, this.main);
    this.#timers = [setInterval(() => this.#poll(), POLL_MS), setInterval(() => this.#renderLive(), TICK_MS)];
    this.#poll();
  }

  #link(view, text) {
    this.#links[view] = h("a", { href: urlOf(view) }, text, h("span"));
    return this.#links[view];
  }

  /** Mark the link of the view that is shown. */
  select(view) {
    for (const [name, link] of Object.entries(this.#links)) {
      setAttribute(link, "aria-current", name === view || (view === "job" && name === "jobs") ? "page" : null);
    }
  }

  close() {
    this.#timers.forEach(clearInterval);
  }

  async #poll() {
    if (document.hidden) return;
    try {
      const { about } = await this.#app.api.live("/live/jobs", { limit: 1 });
      this.#renderQueue(about);
    } catch {
      // "Last heard" tells it.
    }
    this.#renderLive();
  }

  #renderQueue({ waiting, queue }) {
    setText(this.#queue, `${Math.max(waiting, queue ?? 0).toLocaleString()} waiting`);
  }

  #renderLive() {
    const { lastHeard } = this.#app.api;
    const isLive = Date.now() - lastHeard < LIVE_MS;
    setAttribute(this.#live, "data-live", isLive);
    if (isLive) setText(this.#live, "Live");
    else setText(this.#live, lastHeard ? `Last heard ${ageText(new Date(lastHeard), Date.now())}` : "Connecting…");
  }
}
