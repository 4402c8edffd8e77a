/** The search in a log: it marks all matches, counts them, and leads from one to the next. */

import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

const ALL = "log-match";
const CURRENT = "log-current-match";
const MAX_MARKS = 1000; // matches that are marked, on both sides of the current one
const UPDATE_MS = 500; // between two searches while lines are added

export class LogSearch {
  #field = h("input", { type: "search", "aria-label": "Search the log", placeholder: "Search", spellcheck: "false", autocomplete: "off" });
  #count = h("span", { class: "log-count", role: "status" });
  #steps;
  #log;
  #box;
  #matches = []; // as {number, start, end}, in order
  #current = null;
  #updating = null; // a timer

  /**
   * @param {LogLines} log
   * @param {LogBox} box
   */
  constructor(log, box) {
    [this.#log, this.#box] = [log, box];
    this.#steps = [
      h("button", { type: "button", class: "plain", "aria-label": "Previous match", click: () => this.#step(-1) }, "↑"),
      h("button", { type: "button", class: "plain", "aria-label": "Next match", click: () => this.#step(1) }, "↓"),
    ];
    this.element = h(
      "div",
      { class: "log-search", role: "search", input: () => this.#onInput(), keydown: (event) => this.#onKey(event) },
      this.#field,
      this.#count,
      ...this.#steps,
    );
    this.#render();
  }

  focus() {
    this.#field.focus();
    this.#field.select();
  }

  /** Search again soon, because lines have changed. */
  update() {
    if (!this.#field.value) return;
    this.#updating ??= setTimeout(() => {
      this.#find();
      this.#render();
    }, UPDATE_MS);
  }

  close() {
    clearTimeout(this.#updating);
    globalThis.CSS?.highlights?.delete(ALL);
    globalThis.CSS?.highlights?.delete(CURRENT);
  }

  #onInput() {
    const number = this.#current?.number ?? 0;
    this.#find();
    this.#current = this.#matches.find((match) => match.number >= number) ?? this.#matches[0] ?? null;
    this.#render();
    if (this.#current) this.#box.scrollTo(this.#current.number);
  }

  #onKey(event) {
    if (event.target !== this.#field || event.key !== "Enter") return;
    event.preventDefault();
    this.#step(event.shiftKey ? -1 : 1);
  }

  #step(direction) {
    const count = this.#matches.length;
    if (!count) return;
    const index = this.#index < 0 && direction < 0 ? 0 : this.#index;
    this.#current = this.#matches[(index + direction + count) % count];
    this.#render();
    this.#box.scrollTo(this.#current.number);
  }

  get #index() {
    return this.#matches.indexOf(this.#current);
  }

  /** Find all matches; the current one stays if it is still there. */
  #find() {
    clearTimeout(this.#updating);
    this.#updating = null;
    const text = this.#field.value;
    const pattern = new RegExp(text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "gi");
    const before = this.#current;
    this.#matches = [];
    this.#current = null;
    if (!text) return;
    for (const { number, plain } of this.#log.lines) {
      for (const { index, 0: found } of plain.matchAll(pattern)) {
        const match = { number, start: index, end: index + found.length };
        this.#matches.push(match);
        if (number === before?.number && index === before.start) this.#current = match;
      }
    }
  }

  #render() {
    const [count, text] = [this.#matches.length, this.#field.value];
    const position = this.#current ? `${(this.#index + 1).toLocaleString()} of ` : "";
    for (const button of this.#steps) button.hidden = !text;
    setText(this.#count, text && (count ? position + count.toLocaleString() : "No matches"));
    if (!globalThis.CSS?.highlights) return; // older browsers lead to the lines, without marks in them
    const start = Math.max(0, Math.min(this.#index - MAX_MARKS / 2, count - MAX_MARKS));
    this.#highlight(ALL, this.#matches.slice(start, start + MAX_MARKS));
    this.#highlight(CURRENT, this.#current ? [this.#current] : [], 1);
  }

  #highlight(name, matches, priority = 0) {
    const highlight = Object.assign(new Highlight(), { priority });
    for (const match of matches) {
      const range = this.#rangeOf(match);
      if (range) highlight.add(range);
    }
    CSS.highlights.set(name, highlight);
  }

  /** Return where a match is in the document: its ends may be in different nodes of the line. */
  #rangeOf({ number, start, end }) {
    const line = this.#box.textOf(number);
    if (!line) return null; // removed since the search
    const place = {};
    const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
    for (let offset = 0, node = walker.nextNode(); node; offset += node.length, node = walker.nextNode()) {
      const [startOffset, endOffset] = [start - offset, end - offset];
      if (startOffset >= 0 && startOffset < node.length) Object.assign(place, { startContainer: node, startOffset });
      if (endOffset <= node.length) return new StaticRange({ ...place, endContainer: node, endOffset });
    }
    return null;
  }
}
