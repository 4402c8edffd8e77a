/** The lines of a log, from the pieces that the server sends. */

import { parseAnsi, PLAIN } from "/assets/ansi.js";

export const MAX_LINES = 10_000; // of which the newest are kept
const MAX_LINE_LENGTH = 64 * 1024; // a longer line, of a job that prints no line breaks, loses its beginning
const RECORD = /^(\d\d:\d\d:\d\d\.\d{3}) (DEBUG|INFO|WARNING|ERROR|CRITICAL) /; // as workers format what is logged

/**
 * One line.
 *
 * `number` is its number in all that was logged, as far as that is known; `attempt` the attempt that has written it;
 * `missing` how many bytes are missing before it; `text` what was written. `runs` is what can be seen, as `parseAnsi()`
 * returns it, and `plain` its text; `time` and `level` are those of a record, null for what was printed.
 */
class Line {
  text = "";
  runs = [];
  time = null;
  level = null;

  constructor(number, attempt, missing, style) {
    Object.assign(this, { number, attempt, missing, firstStyle: style, lastStyle: style });
  }

  get plain() {
    return this.runs.map(({ text }) => text).join("");
  }

  append(text) {
    this.text = (this.text + text).slice(-MAX_LINE_LENGTH);
    const { runs, style } = parseAnsi(this.text, this.firstStyle);
    [this.runs, this.lastStyle] = [runs, style];
    [this.time, this.level] = RECORD.exec(this.plain)?.slice(1) ?? [null, null];
  }
}

export class LogLines {
  /** The newest lines, the oldest first. */
  lines = [];
  /** The offset after the last byte of the log. */
  end = 0;
  /** How many bytes were gone before the first piece. */
  missing = 0;
  #isOpen = false; // whether the last line may go on
  #next = 1; // the number of the next line
  #gap = 0; // how many bytes are missing before it

  /**
   * Add a piece of the log, and return the lines that are new or have changed.
   *
   * A piece that begins before the end of the last one is of another log: the server has lost the first one.
   */
  add({ from, to, attempt, text, line = 1 }) {
    if (from < this.end) this.clear();
    if (from > this.end) this.#skip(from - this.end, line);
    this.end = to;
    const texts = text.split("\n");
    const rest = texts.pop();
    const changed = new Set();
    for (const each of texts) {
      changed.add(this.#append(each, attempt));
      this.#isOpen = false;
    }
    if (rest) {
      changed.add(this.#append(rest, attempt));
      this.#isOpen = true;
    }
    return [...changed];
  }

  /** Remove the oldest lines above a limit, and return them. */
  trim(limit) {
    return this.lines.splice(0, Math.max(0, this.lines.length - limit));
  }

  clear() {
    [this.lines, this.end, this.missing, this.#isOpen, this.#next, this.#gap] = [[], 0, 0, false, 1, 0];
  }

  #skip(missing, line) {
    if (this.lines.length) this.#gap = missing;
    else this.missing = missing;
    this.#isOpen = false;
    this.#next = Math.max(this.#next, line);
  }

  #append(text, attempt) {
    const last = this.lines.at(-1);
    const isSame = last?.attempt === attempt;
    if (this.#isOpen && isSame) {
      last.append(text);
      return last;
    }
    const line = new Line(this.#next++, attempt, this.#gap, isSame ? last.lastStyle : PLAIN);
    this.#gap = 0;
    line.append(text);
    this.lines.push(line);
    return line;
  }
}
