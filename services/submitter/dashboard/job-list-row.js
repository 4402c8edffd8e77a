/** A row of the list of jobs. It writes only what has changed. Texts of a job are shown as text, never as markup. */

import { h, setAttribute } from "/assets/dom.js";
import { durationText, nameText, percent, shortId, statusText, toneOf } from "/assets/format.js";
import { statusIcon } from "/assets/icons.js";
import { urlOf } from "/assets/router.js";
import { attemptCount, lineText, shortDuration, shownPercent, waitMs, workMs } from "/assets/row-texts.js";
import { setText } from "/assets/text.js";

const INDETERMINATE = 0.35; // of the bar is filled while the progress is unknown

const cell = (name, ...children) => h("div", { role: "cell", class: name }, ...children);

export class JobListRow {
  /** The newest snapshot that was rendered. */
  snapshot = null;
  /** The server's time in ms when the snapshot arrived: it was current then. */
  receivedAt = 0;
  checkbox = h("input", { type: "checkbox" });
  #word = h("span", {});
  #status = h("span", { class: "status" }, this.#word);
  #name = h("bdi", {});
  #kind = h("bdi", {});
  #bar = h("div", {});
  #line = h("span", { dir: "auto" });
  #percent = h("span", { class: "percent" });
  #attempt = cell("number attempt");
  #wait = cell("number wait");
  #work = cell("number work");
  #age = h("time", {});
  #error = cell("error");
  #tone = "";

  /**
   * @param {string} id of the job
   * @param {boolean} canSelect whether the row has a checkbox
   */
  constructor(id, canSelect) {
    this.link = h("a", { href: urlOf("job", { name: id }) }, this.#name);
    this.element = h(
      "div",
      { role: "row", class: "row", "data-id": id },
      canSelect && cell("select", this.checkbox),
      cell("condition", this.#status),
      cell("what", this.link, h("small", {}, this.#kind, ` · ${shortId(id)}`)),
      cell("progress", h("div", { class: "track", "aria-hidden": "true" }, this.#bar), h("small", {}, this.#line, this.#percent)),
      this.#attempt,
      this.#wait,
      this.#work,
      cell("number age", this.#age),
      this.#error,
    );
  }

  /**
   * Render a state of the job.
   *
   * @param {object} snapshot
   * @param {object} state
   * @param {number} state.now the server's time in ms
   * @param {number} state.confirmedUntil the time until which the snapshot is known to be current, in ms
   * @param {boolean} state.isByEnd whether the list is ordered by the end of its jobs
   * @param {string} state.error the error to show, "" for none
   */
  render(snapshot, { now, confirmedUntil, isByEnd, error }) {
    if (snapshot !== this.snapshot) this.#renderJob(snapshot);
    const tone = toneOf(snapshot, confirmedUntil);
    this.#renderTone(tone);
    setText(this.#percent, shownPercent(snapshot, tone));
    const line = lineText(snapshot, now, confirmedUntil);
    if (setText(this.#line, line)) this.#line.title = line;
    setText(this.#wait, shortDuration(waitMs(snapshot, now)));
    setText(this.#work, shortDuration(workMs(snapshot, now)));
    const time = (isByEnd && snapshot.finished_at) || snapshot.submitted_at;
    if (setText(this.#age, durationText(now - Date.parse(time)))) {
      this.#age.dateTime = time;
      this.#age.title = new Date(time).toLocaleString();
    }
    if (setText(this.#error, error)) this.#error.title = error;
  }

  /** Mark the row as selected or not. */
  renderSelection(isSelected) {
    this.checkbox.checked = isSelected;
    setAttribute(this.element, "data-selected", isSelected);
  }

  #renderJob(snapshot) {
    this.snapshot = snapshot;
    const name = nameText(snapshot);
    if (setText(this.#name, name)) {
      this.link.title = name;
      setAttribute(this.checkbox, "aria-label", `Select ${name}`);
    }
    setText(this.#kind, snapshot.kind);
    setText(this.#word, statusText(snapshot));
    setText(this.#attempt, attemptCount(snapshot));
    const value = percent(snapshot);
    const isIndeterminate = value === null && snapshot.status === "running";
    setAttribute(this.#bar, "data-indeterminate", isIndeterminate);
    const transform = `scaleX(${isIndeterminate ? INDETERMINATE : (value ?? 0) / 100})`;
    if (this.#bar.style.transform !== transform) this.#bar.style.transform = transform;
  }

  #renderTone(tone) {
    if (tone === this.#tone) return;
    this.#tone = tone;
    this.element.dataset.tone = tone;
    this.#status.querySelector("svg")?.remove();
    this.#status.prepend(statusIcon(tone));
  }
}
