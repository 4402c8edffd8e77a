/** The box that scrolls over the lines of a log: it follows the end, and marks the line that a link leads to. */

import { styleClasses } from "/assets/ansi.js";
import { h, setAttribute } from "/assets/dom.js";
import { setText } from "/assets/text.js";

const CHUNK_LINES = 100; // that the browser lays out together, once they come into view
const MARGIN_PX = 8; // this close to the end counts as the end
const USER_MS = 1000; // after which a scroll that goes on is no longer the reader's
const USER_EVENTS = ["wheel", "touchmove", "pointerdown", "keydown"];
const LEFT_OUT = /^…(?: [\d,]+ (?:line|byte)s? left out)?$/; // as workers and notifiers mark it

export class LogBox {
  element = h("div", { class: "log-box", role: "region", "aria-label": "Lines of the log", tabindex: 0, "data-wrap": true });
  #content = h("div", { class: "log-content" });
  #start = h("p", { class: "log-gap", hidden: true });
  #rows = new Map(); // by the number of the line
  #sections = []; // of the attempts, as {attempt, element}
  #isFollowing = true;
  #top = 0; // where the box was last scrolled to
  #usedAt = -Infinity; // when the reader last did something in the box, or scrolled on
  #marked = null; // the row that a link leads to
  #tabStop = null; // the one link that the tab key leads to
  #onFollow;
  #observer = new ResizeObserver(() => this.#isFollowing && this.#scrollToEnd());

  /** @param {(isFollowing: boolean) => void} onFollow called when the box begins or ceases to follow the end */
  constructor(onFollow) {
    this.#onFollow = onFollow;
    this.#content.append(this.#start);
    this.element.append(this.#content);
    this.element.addEventListener("scroll", () => this.#onScroll());
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    for (const name of USER_EVENTS) this.element.addEventListener(name, () => this.#onUse(), { passive: true });
    this.#observer.observe(this.#content);
    this.#observer.observe(this.element);
  }

  get isFollowing() {
    return this.#isFollowing;
  }

  close() {
    this.#observer.disconnect();
  }

  clear() {
    for (const { element } of this.#sections) element.remove();
    this.#sections = [];
    this.#rows.clear();
    this.#marked = this.#tabStop = null;
    this.#start.hidden = true;
  }

  /** Say what is gone before the first line, "" if nothing is. */
  showStart(text) {
    setText(this.#start, text);
    this.#start.hidden = !text;
  }

  /** Show lines that are new or have changed. */
  draw(lines) {
    for (const line of lines) {
      const row = this.#rows.get(line.number) ?? this.#addRow(line);
      setAttribute(row, "data-level", line.level?.toLowerCase());
      setAttribute(row, "data-left-out", LEFT_OUT.test(line.text));
      row.lastElementChild.replaceChildren(...contents(line));
    }
    if (this.#isFollowing) this.#scrollToEnd();
  }

  /** Remove lines from the beginning. */
  remove(lines) {
    for (const { number } of lines) {
      this.#rows.get(number)?.remove();
      this.#rows.delete(number);
    }
    const chunks = this.#content.querySelectorAll(".log-chunk");
    for (const chunk of chunks) if (!chunk.querySelector(".log-line")) chunk.remove();
    for (const { element } of this.#sections) if (!element.querySelector(".log-chunk")) element.remove();
  }

  /** Follow the end, or stay where the box is. */
  follow(isFollowing) {
    if (isFollowing) this.#scrollToEnd();
    if (isFollowing === this.#isFollowing) return;
    this.#isFollowing = isFollowing;
    this.#onFollow(isFollowing);
  }

  /** Wrap long lines, or scroll to their ends; return whether they are wrapped now. */
  toggleWrap() {
    return this.element.toggleAttribute("data-wrap");
  }

  /** Return the element with the text of a line. */
  textOf(number) {
    return this.#rows.get(number)?.lastElementChild;
  }

  /** Mark a line, none for null, and scroll to it; return whether it is here. */
  mark(number) {
    this.#marked?.removeAttribute("aria-current");
    this.#marked = this.#rows.get(number) ?? null;
    if (!this.#marked) return false;
    this.#marked.setAttribute("aria-current", "true");
    this.scrollTo(number, "center");
    return true;
  }

  /** Scroll to a line, which is then the one that the tab key leads to. */
  scrollTo(number, block = "nearest") {
    const row = this.#rows.get(number);
    if (!row) return;
    this.follow(false);
    row.parentElement.style.contentVisibility = "visible"; // otherwise the row may have no place yet
    row.scrollIntoView({ block });
    this.#top = this.element.scrollTop;
    this.#moveTabStop(row);
  }

  #addRow({ number, attempt, missing }) {
    const link = h("a", { href: `#line-${number}`, class: "log-number", tabindex: -1 }, String(number));
    const row = h("div", { class: "log-line" }, link, h("span", { class: "log-text" }));
    const chunk = this.#chunkFor(attempt);
    if (missing) chunk.append(h("p", { class: "log-gap" }, `${bytesText(missing)} are missing here.`));
    chunk.append(row);
    chunk.style.setProperty("--lines", chunk.childElementCount);
    this.#rows.set(number, row);
    if (!this.#tabStop?.isConnected) this.#moveTabStop(row);
    return row;
  }

  /** Return the chunk for the next line of an attempt. */
  #chunkFor(attempt) {
    if (this.#sections.at(-1)?.attempt !== attempt) {
      const label = `Attempt ${attempt}`;
      const element = h("section", { class: "log-attempt", "aria-label": label }, h("h3", {}, label));
      this.#sections.push({ attempt, element });
      this.#content.append(element);
    }
    const { element } = this.#sections.at(-1);
    const last = element.lastElementChild;
    if (last.matches(".log-chunk") && last.childElementCount < CHUNK_LINES) return last;
    const chunk = h("div", { class: "log-chunk" });
    element.append(chunk);
    return chunk;
  }

  #scrollToEnd() {
    this.element.scrollTop = this.element.scrollHeight;
    this.#top = this.element.scrollTop;
  }

  #onUse() {
    this.#usedAt = performance.now();
  }

  /** Called when the box has been scrolled. Lines that are laid out late scroll it, too. */
  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    const distance = scrollTop - this.#top; // 0 after a scroll by this class
    this.#top = scrollTop;
    if (performance.now() - this.#usedAt > USER_MS) return;
    this.#onUse();
    if (distance < 0) this.follow(false);
    else if (distance > 0 && scrollHeight - scrollTop - clientHeight < MARGIN_PX) this.follow(true);
  }

  /** Move from link to link with the arrow keys. */
  #onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches(".log-number")) return;
    const number = Number(event.target.textContent) + step;
    if (!this.#rows.has(number)) return;
    event.preventDefault();
    this.scrollTo(number);
    this.#tabStop.firstElementChild.focus({ preventScroll: true });
  }

  #moveTabStop(row) {
    this.#tabStop?.firstElementChild.setAttribute("tabindex", -1);
    this.#tabStop = row;
    row.firstElementChild.setAttribute("tabindex", 0);
  }
}

/** Return the nodes that show a line. */
function contents({ runs, time }) {
  const nodes = runs.map(({ text, style }) => (styleClasses(style) ? h("span", { class: styleClasses(style) }, text) : text));
  if (!time || !nodes[0].startsWith?.(time)) return nodes;
  return [h("time", { class: "log-time" }, time), nodes[0].slice(time.length), ...nodes.slice(1)];
}

/** Return a number of bytes as text, such as "12 KiB". */
export function bytesText(count) {
  return count < 1024 ? `${count} bytes` : `${Math.round(count / 1024).toLocaleString()} KiB`;
}
