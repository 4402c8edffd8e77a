/** One row of `<headway-jobs>`: a job as `<headway-job>` shows it, on fewer lines. */

import { ageText, nameText } from "./format.js";
import { cancelState, jobStates, shownError } from "./job-states.js";
import { ROW_CSS } from "./jobs-styles.js";
import { View } from "./view.js";

const PARTS =
  "job head title label kind state icon status percent track bar foot text progress amount note detail error message " +
  "attempts expand actions cancel";

export class JobRow {
  item = document.createElement("li");
  snapshot = null;
  #host = document.createElement("div");
  #age = document.createElement("time");
  #link = null;
  #view;
  #cancelRequested = false; // in this row

  /**
   * @param {?string} href where the name of the job leads to
   * @param {() => void} onCancel called when the user cancels the job
   */
  constructor(href, onCancel) {
    const options = { css: ROW_CSS, isSilent: true };
    this.#view = new View(this.#host.attachShadow({ mode: "open" }), () => this.#onCancel(onCancel), options);
    this.#host.setAttribute("exportparts", PARTS.split(" ").join(", "));
    this.#host.className = "job";
    this.#age.slot = "actions";
    this.#age.setAttribute("part", "age");
    this.#host.append(this.#age);
    if (href) this.#addLink(href);
    this.item.append(this.#host);
  }

  #addLink(href) {
    this.#link = Object.assign(document.createElement("a"), { href });
    this.#link.setAttribute("part", "link");
    this.#host.append(this.#link);
  }

  #onCancel(onCancel) {
    this.#cancelRequested = true;
    onCancel();
  }

  /**
   * Render a state.
   *
   * @param {object} snapshot
   * @param {object} state
   * @param {?{message: string}} state.error why the job cannot be cancelled
   * @param {string} state.connection
   * @param {boolean} state.canCancel whether the token allows cancelling
   * @param {number} state.now the server's time in ms
   * @param {number} state.confirmedUntil the time until which the snapshot is known to be current, in ms
   */
  render(snapshot, { error: watchError, connection, canCancel, now, confirmedUntil }) {
    this.snapshot = snapshot;
    this.#cancelRequested &&= !watchError && !snapshot.finished_at;
    const error = shownError(snapshot, watchError);
    const cancel = cancelState(snapshot, canCancel, this.#cancelRequested);
    const states = jobStates(snapshot, { error, connection, confirmedUntil });
    this.#view.render(snapshot, { error, connection: "live", cancel, now, confirmedUntil, states }); // the list says it once
    this.item.setAttribute("part", `row ${snapshot.status}`);
    this.#renderAge(snapshot, now);
    if (!this.#link) return;
    const text = nameText(snapshot);
    if (this.#link.textContent !== text) this.#link.textContent = text;
  }

  /** Show when the job ended or was submitted; for a waiting job, the note says it. */
  #renderAge({ status, finished_at: finished, submitted_at: submitted }, now) {
    const time = finished ?? submitted;
    const text = status === "queued" ? "" : ageText(time, now);
    if (this.#age.textContent === text) return;
    this.#age.textContent = text;
    this.#age.dateTime = time;
    this.#age.title = new Date(time).toLocaleString();
  }
}
