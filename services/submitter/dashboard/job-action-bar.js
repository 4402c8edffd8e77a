/** The buttons for what an operator can do with the job that is shown, and their keys. */

import { JobActions } from "/assets/actions.js";
import { h, setAttribute } from "/assets/dom.js";
import { isCancelling } from "/assets/format.js";
import { setText } from "/assets/text.js";

const hasEnded = ({ finished_at: finished }) => Boolean(finished);
const hasSucceeded = ({ status }) => status === "succeeded"; // and runs again as a new job, whose payload can be changed
const ACTIONS = [
  { name: "cancel", text: (job) => (isCancelling(job) ? "Cancelling…" : "Cancel"), isOffered: (job) => !hasEnded(job), key: "c", label: "Cancel the job" },
  { name: "runAgain", text: (job) => (hasSucceeded(job) ? "Run again…" : "Run again"), isOffered: hasEnded, key: "r", label: "Run the job again" },
  { name: "runAgainWithChanges", text: () => "Run again with changes…", isOffered: (job) => hasEnded(job) && !hasSucceeded(job) },
  { name: "share", text: () => "Share", isOffered: () => true },
  { name: "erase", text: () => "Erase…", isOffered: hasEnded },
];

export class JobActionBar {
  #actions;
  #onAction;
  #onFocusLost;
  #job = null;
  #buttons = new Map(ACTIONS.map(({ name }) => [name, this.#button(name)]));
  #unbind;
  element = h("div", { class: "job-actions", role: "group", "aria-label": "Actions" }, ...this.#buttons.values());

  /**
   * @param {object} app what the views share
   * @param {object} options
   * @param {() => void} options.onAction called after an action
   * @param {() => void} options.onFocusLost called when a button with the focus disappears
   */
  constructor(app, { onAction, onFocusLost }) {
    this.#actions = new JobActions(app);
    this.#onAction = onAction;
    this.#onFocusLost = onFocusLost;
    const keys = ACTIONS.filter(({ key }) => key).map(({ key, label, name }) => [key, { label, run: () => this.#act(name) }]);
    this.#unbind = app.keyboard.bind(Object.fromEntries(keys));
  }

  /** Offer what can be done with a job, which is given as its newest snapshot. */
  render(job) {
    this.#job = job;
    for (const { name, text, isOffered } of ACTIONS) {
      const button = this.#buttons.get(name);
      const isHidden = !isOffered(job);
      if (isHidden && document.activeElement === button) this.#onFocusLost();
      button.hidden = isHidden;
      setText(button, text(job));
    }
    setAttribute(this.#buttons.get("cancel"), "aria-disabled", isCancelling(job) ? "true" : null);
  }

  close() {
    this.#unbind();
  }

  #button(name) {
    return h("button", { type: "button", class: "button", hidden: true, click: () => this.#act(name) });
  }

  /** Act on the job as it is shown, unless it does not permit that now. */
  async #act(name) {
    const button = this.#buttons.get(name);
    if (button.hidden || button.getAttribute("aria-disabled") === "true") return;
    await this.#actions[name](this.#job);
    if (button.hidden && document.activeElement === document.body) this.#onFocusLost(); // a dialog could not give it back
    this.#onAction();
  }
}
