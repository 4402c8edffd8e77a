/** The frame of the dashboard: its brand, the search, the links to the views, and whether what they show is live. */

import { h, loadStyles, setAttribute } from "/assets/dom.js";
import { ageText } from "/assets/format.js";
import { Overview } from "/assets/overview.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

const LINKS = { jobs: "Jobs", kinds: "Kinds", workers: "Workers", poison: "Poison" };
const LIVE_MS = 12_000; // after the notifier was last heard
const TICK_MS = 1000;
const IS_MAC = /Mac|iPhone|iPad/.test(navigator.platform);

export class Shell {
  /** Where the view is shown. */
  main = h("main", { id: "view", tabindex: -1 });
  #app;
  #links = {};
  #live = h("p", { class: "live", "aria-hidden": "true" }); // its seconds would be announced
  #connection = h("p", { class: "visually-hidden", role: "status" });
  #facts = h("div", { class: "facts", title: "Waiting: queued or retrying. The queue also has the messages of running jobs." });
  #overview;
  #isOpening = false;
  #unbind;
  #timer;

  constructor(app) {
    this.#app = app;
    const nav = h("nav", { "aria-label": "Dashboard" }, ...Object.keys(LINKS).map((view) => this.#link(view)));
    const state = h("div", { class: "state" }, this.#live, this.#connection, this.#facts, this.#account());
    const skip = h("a", { class: "skip", href: "#view", click: (event) => this.#skip(event) }, "Skip to the content");
    const brand = h("a", { class: "brand", href: urlOf("jobs") }, h("img", { src: "/assets/icon.svg", alt: "", width: 24, height: 24 }), "Headway");
    const rail = h("header", { class: "rail" }, skip, brand, this.#searchButton(), nav, state);
    this.element = h("div", { class: "shell" }, rail, this.main);
    this.#overview = new Overview(app, () => this.#render());
    this.#unbind = app.keyboard.bind({
      "Ctrl+k": { label: "Find a job, a kind or a tag", run: () => this.#search() },
      "/": { label: "Find a job, a kind or a tag", run: () => this.#search() },
      "?": { label: "Show the shortcuts", run: () => this.#help() },
    });
    this.#timer = setInterval(() => this.#renderLive(), TICK_MS);
    this.#renderLive();
  }

  /** Mark the link of the view that is shown. */
  select(view) {
    for (const [name, { link }] of Object.entries(this.#links)) {
      setAttribute(link, "aria-current", name === view || (view === "job" && name === "jobs") ? "page" : null);
    }
  }

  close() {
    clearInterval(this.#timer);
    this.#overview.close();
    this.#unbind();
  }

  #link(view) {
    const count = h("span", { class: "count" });
    const link = h("a", { href: urlOf(view) }, LINKS[view], count);
    this.#links[view] = { link, count };
    return link;
  }

  #searchButton() {
    const key = h("kbd", { "aria-hidden": "true" }, IS_MAC ? "⌘ K" : "Ctrl K");
    const options = { type: "button", class: "find", "aria-keyshortcuts": "Control+K Meta+K", "aria-haspopup": "dialog" };
    return h("button", { ...options, click: () => this.#search() }, h("span", {}, "Find"), key);
  }

  #account() {
    const { session } = this.#app;
    const help = h("button", { type: "button", class: "plain", click: () => this.#help() }, "Shortcuts");
    const signOut = session.name && h("button", { type: "button", class: "plain", click: () => session.signOut() }, "Sign out");
    const rights = session.canOperate ? session.name : `${session.name} (read-only)`;
    const title = session.canOperate ? null : "This API key does not have the role operate.";
    return h("p", { class: session.name ? "account named" : "account" }, session.name && h("bdi", { title }, rights), signOut, help);
  }

  #skip(event) {
    event.preventDefault(); // the URL stays
    this.main.focus();
  }

  #search() {
    this.#open("search", "palette.css", () => import("/assets/palette.js"));
  }

  #help() {
    this.#open("list of keys", "help.css", () => import("/assets/help.js"));
  }

  /** Open a dialog that is loaded on demand, with what is typed meanwhile. */
  async #open(name, styles, load) {
    if (this.#isOpening) return;
    this.#isOpening = true;
    try {
      const { value: [{ open }], typed } = await this.#app.keyboard.collect(Promise.all([load(), loadStyles(styles)]));
      open(this.#app, typed);
    } catch (error) {
      this.#app.notices.showError(`The ${name} could not be opened.`, error);
    }
    this.#isOpening = false;
  }

  #render() {
    for (const [view, { count }] of Object.entries(this.#links)) setText(count, countText(this.#overview.count(view)));
    const facts = this.#overview.facts();
    facts.forEach((text, index) => {
      const line = this.#facts.children[index] ?? this.#facts.appendChild(h("p"));
      setText(line, text);
    });
    while (this.#facts.children.length > facts.length) this.#facts.lastChild.remove();
    this.#renderLive();
  }

  /** Show whether the notifier answers, and if not, since when. Only a change is announced, not each second. */
  #renderLive() {
    const { lastHeard } = this.#app.api;
    const isLive = Date.now() - lastHeard < LIVE_MS && navigator.onLine;
    const lost = this.#overview.problem();
    setAttribute(this.#live, "data-live", isLive);
    if (isLive) setText(this.#live, "Live");
    else if (lastHeard) setText(this.#live, `Last heard ${ageText(new Date(lastHeard).toISOString(), Date.now())}`);
    else setText(this.#live, lost ? "Not connected" : "Connecting…");
    setText(this.#connection, isLive ? "Live" : lost);
    this.#connection.classList.toggle("visually-hidden", isLive);
  }
}

function countText(count) {
  return count === null ? "" : count.toLocaleString();
}
