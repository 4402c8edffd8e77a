/**
 * The log of a job: what its handler has logged and printed, live.
 *
 * It begins at the end and follows it until the reader scrolls up. `#line-120` in the URL leads to a line; its number
 * stays the same when older lines are gone.
 */

import { NOT_COPIED, copyText } from "/assets/clipboard.js";
import { h, loadStyles, setAttribute } from "/assets/dom.js";
import { download } from "/assets/download.js";
import { liveUrl } from "/assets/live-url.js";
import { bytesText, LogBox } from "/assets/log-box.js";
import { LogLines, MAX_LINES } from "/assets/log-lines.js";
import { LogSearch } from "/assets/log-search.js";
import { setText } from "/assets/text.js";
import { watchJob } from "/assets/watch.js";

const DRAW_MS = 50; // between two changes of the page
const LOADING_MS = 300; // after which a log without a line says that it loads
const EMPTY_MS = 800; // after which a log without a line counts as empty
const PROBLEMS = {
  unknown: "The record of this job is gone, and its log with it.",
  forbidden: "The token of this session does not open the log.",
};
const HASH = /^line-([1-9]\d{0,9})$/;

export class LogView {
  #app;
  #log = new LogLines();
  #box = new LogBox(() => this.#render());
  #search = new LogSearch(this.#log, this.#box);
  #note = h("p", { class: "log-note soft" });
  #follow = this.#button("Follow", () => this.#box.follow(!this.#box.isFollowing));
  #wrap = this.#button("Wrap", () => this.#toggleWrap());
  #controls;
  #unbind;
  #jobId = null;
  #watch = null;
  #hasEnded = false;
  #ended = null; // the generation and the version of an ended job: in a later version it has been erased
  #connection = "connecting";
  #isSettled = false; // whether a first piece would be here
  #problem = null; // why there is no log, or no more of it, as {code, text}
  #wasLost = false;
  #pieces = []; // that are not drawn yet
  #drawing; // a timer
  #settling; // a timer
  #loading; // a timer
  #isLate = false; // whether it has loaded for so long that it says so
  #wanted = null; // the number of the line that the URL names
  #isMarked = false;

  constructor(app) {
    this.#app = app;
    loadStyles("log-view.css");
    const buttons = [this.#follow, this.#wrap, this.#button("Copy", () => this.#copy()), this.#button("Download", () => this.#download())];
    this.#controls = h("div", { class: "log-controls" }, this.#search.element, ...buttons);
    this.#wrap.setAttribute("aria-pressed", "true");
    const bar = h("div", { class: "log-bar" }, h("h2", { id: "log-title" }, "Log"), this.#controls);
    this.element = h("section", { class: "card log", "aria-labelledby": "log-title" }, bar, this.#note, this.#box.element);
    this.#unbind = app.keyboard.bind({
      "/": { label: "Search the log", run: () => this.#search.focus() },
      f: { label: "Follow the log", run: () => this.#follow.click() },
    });
    this.#render();
  }

  /**
   * Show the log of a job, live.
   *
   * @param {string} jobId
   * @param {{ended?: boolean}} [options] whether the job has ended, as far as the caller knows
   */
  watch(jobId, { ended = false } = {}) {
    this.#hasEnded = ended;
    if (jobId !== this.#jobId) {
      this.#stop();
      this.#jobId = jobId;
      this.#clear();
      this.#connect();
    }
    this.#render();
  }

  /** Mark the line that the hash of the URL names, such as `line-120`, as soon as it is here. */
  showLine(hash) {
    const number = Number(HASH.exec(hash)?.[1] ?? 0) || null;
    if (number === this.#wanted) return;
    this.#wanted = number;
    this.#isMarked = this.#box.mark(number);
    this.#render();
  }

  close() {
    this.#jobId = null;
    this.#stop();
    this.#unbind();
    this.#search.close();
    this.#box.close();
  }

  #stop() {
    this.#watch?.close();
    this.#watch = null;
    for (const timer of [this.#drawing, this.#settling, this.#loading]) clearTimeout(timer);
    this.#drawing = this.#settling = undefined;
  }

  #clear() {
    this.#clearLines();
    [this.#problem, this.#isSettled, this.#isLate, this.#wasLost, this.#isMarked] = [null, false, false, false, false];
    [this.#connection, this.#ended] = ["connecting", null];
  }

  #connect() {
    this.#loading = setTimeout(() => {
      this.#isLate = true;
      this.#render();
    }, LOADING_MS);
    this.#watch = watchJob(
      {
        url: liveUrl,
        token: this.#app.session.tokens(),
        jobId: this.#jobId,
        log: true,
        onLog: (piece) => this.#onPiece(piece),
        onConnection: (state) => this.#onConnection(state),
        onError: (error) => this.#onError(error),
      },
      (snapshot) => this.#onSnapshot(snapshot),
    );
  }

  #onSnapshot({ finished_at: finished, generation, version }) {
    const isErased = finished && this.#ended?.generation === generation && this.#ended.version !== version;
    this.#hasEnded = Boolean(finished);
    this.#ended = finished ? { generation, version } : null;
    if (isErased) this.#clearLines();
    if (this.#problem?.code !== "forbidden") this.#problem = null;
    this.#render();
  }

  #clearLines() {
    this.#pieces = [];
    this.#log.clear();
    this.#box.clear();
  }

  #onConnection(state) {
    this.#connection = state;
    if (state === "live") this.#settle();
    this.#render();
  }

  #onError({ code, message, cause }) {
    this.#problem = { code, text: PROBLEMS[code] ?? cause?.message ?? message };
    this.#render();
  }

  #onPiece(piece) {
    this.#app.api.heard();
    this.#pieces.push(piece);
    this.#drawing ??= setTimeout(() => this.#draw(), DRAW_MS);
  }

  /** Say that the log is empty, unless a piece comes first. */
  #settle() {
    this.#settling ??= setTimeout(() => {
      this.#isSettled = true;
      this.#render();
    }, EMPTY_MS);
  }

  #draw() {
    this.#drawing = undefined;
    const changed = new Set();
    for (const piece of this.#pieces.splice(0)) {
      if (piece.from < this.#log.end) {
        this.#wasLost = true;
        changed.clear();
        this.#box.clear();
      }
      for (const line of this.#log.add(piece)) changed.add(line);
    }
    this.#box.remove(this.#log.trim(this.#box.isFollowing ? MAX_LINES : 2 * MAX_LINES));
    this.#box.draw([...changed].filter((line) => line.number >= this.#log.lines[0].number));
    this.#problem = null;
    this.#search.update();
    this.#markWanted();
    this.#render();
  }

  #markWanted() {
    if (this.#wanted && !this.#isMarked) this.#isMarked = this.#box.mark(this.#wanted);
  }

  #render() {
    const isEmpty = !this.#log.lines.length;
    const hadFocus = document.activeElement === this.#follow;
    this.#controls.hidden = this.#box.element.hidden = isEmpty;
    this.#follow.hidden = this.#hasEnded;
    if (hadFocus && this.#hasEnded) this.#box.element.focus({ preventScroll: true });
    setAttribute(this.#follow, "aria-pressed", String(this.#box.isFollowing));
    const note = this.#problem?.text ?? (isEmpty ? this.#emptyText() : this.#noteText());
    setText(this.#note, note);
    this.#note.hidden = !note;
    this.#box.showStart(this.#startText());
  }

  #emptyText() {
    if (this.#connection === "reconnecting") return "The server cannot be reached. Trying again…";
    if (!this.#isSettled) return this.#isLate ? "Loading…" : "";
    if (!this.#hasEnded) return "Nothing has been logged yet.";
    return "The job has logged nothing, or its log has been erased or lost.";
  }

  #noteText() {
    if (this.#wanted && !this.#isMarked) return `Line ${this.#wanted.toLocaleString()} is not here: it has been removed, or is not written yet.`;
    if (this.#wasLost) return "An earlier log of this job has been lost.";
    return this.#connection === "reconnecting" && !this.#hasEnded ? "Reconnecting: newer lines may be missing." : "";
  }

  /** Return what is gone before the first line. */
  #startText() {
    const { lines, missing } = this.#log;
    const first = lines[0]?.number ?? 1;
    if (first > 1) return `${first === 2 ? "Line 1 is" : `Lines 1 to ${(first - 1).toLocaleString()} are`} no longer kept.`;
    return missing ? `The first ${bytesText(missing)} are no longer kept.` : "";
  }

  #button(text, onClick) {
    return h("button", { type: "button", class: "chip", click: onClick }, text);
  }

  #toggleWrap() {
    const isWrapped = this.#box.toggleWrap();
    setAttribute(this.#wrap, "aria-pressed", String(isWrapped));
  }

  /** Copy what can be seen. */
  async #copy() {
    const { lines } = this.#log;
    const isCopied = await copyText(lines.map(({ plain }) => `${plain}\n`).join(""));
    if (!isCopied) return this.#app.notices.show(`${NOT_COPIED} Download the log instead.`, { isError: true });
    this.#app.notices.show(lines.length === 1 ? "1 line was copied." : `${lines.length.toLocaleString()} lines were copied.`);
  }

  /** Save what was logged, with its escape sequences. */
  #download() {
    const text = this.#log.lines.map((line) => `${line.text}\n`).join("");
    download(text, `${this.#jobId}.log`, "text/plain;charset=utf-8");
  }
}
