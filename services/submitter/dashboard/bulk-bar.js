/** The bar of actions on the jobs that are selected in the list, or on all that match its filter. */

import { h, loadStyles, setAttribute } from "/assets/dom.js";
import { applies, bulkActionOf } from "/assets/job-requests.js";
import { setText } from "/assets/text.js";

const MAX_SELECTED = 200;
const LABELS = {
  runAgain: { text: "Run again", some: (count) => `Run ${count} again`, all: "Run all again" },
  cancel: { text: "Cancel", some: (count) => `Cancel ${count}`, all: "Cancel all" },
};
const ACTIONS = Object.keys(LABELS);

export class BulkBar {
  element;
  #app;
  #selection;
  #matching;
  #jobOf;
  #focusList;
  #actions;
  #stop;
  #styles = loadStyles("actions.css");
  #text = h("p", { class: "bulk-count", role: "status" });
  #all = h("button", { type: "button", class: "plain link", click: () => this.#toggleAll() });
  #buttons = {};
  #hint = h("p", { class: "bulk-hint", hidden: true });
  #isAll = false;
  #isBusy = false; // with an action: the bar shows how far it is

  /**
   * @param {object} app
   * @param {object} list
   * @param {import("/assets/selection.js").Selection} list.selection the ids of the selected jobs
   * @param {() => {filter: object, count: ?number}} list.matching returns the present filter of the list, as `watchJobs`
   *   takes it, and how many jobs match it, null if that is not known
   * @param {(id: string) => ?object} list.jobOf returns the newest snapshot of a job
   * @param {() => void} list.focus moves the focus to the list, when the bar that had it goes
   * @param {import("/assets/actions.js").JobActions} list.actions
   */
  constructor(app, { selection, matching, jobOf, focus, actions }) {
    this.#app = app;
    this.#selection = selection;
    this.#matching = matching;
    this.#jobOf = jobOf;
    this.#focusList = focus;
    this.#actions = actions;
    this.#stop = selection.onChange(() => this.update());
    for (const action of ACTIONS) {
      this.#buttons[action] = h("button", { type: "button", class: action === "cancel" ? "button danger" : "button", click: () => this.#act(action) });
    }
    const clear = h("button", { type: "button", class: "plain link", click: () => selection.clear() }, "Clear selection");
    const choices = h("div", { class: "bulk-choices" }, ...Object.values(this.#buttons), clear);
    this.element = h("section", { class: "bulk-bar", "aria-label": "Selected jobs", hidden: true }, h("div", { class: "bulk-what" }, this.#text, this.#all, this.#hint), choices);
  }

  /** Show the actions for the present selection and list. */
  update() {
    const { size } = this.#selection;
    if (!size) this.#isAll = false;
    if (this.#isBusy) return;
    if (!size || !this.#app.session.canOperate) return this.#hide();
    if (this.element.hidden) this.#show();
    const { filter, count } = this.#matching();
    setText(this.#text, this.#isAll ? allText(count) : `${size.toLocaleString()} selected`);
    this.#all.hidden = !this.#isAll && !ACTIONS.some((action) => bulkActionOf(action, filter));
    setText(this.#all, this.#isAll ? size === 1 ? "Only the selected one" : `Only the ${size.toLocaleString()} selected` : `Select all${count ? ` ${count.toLocaleString()}` : ""} that match`);
    const hint = this.#hintText(filter);
    setText(this.#hint, hint);
    this.#hint.hidden = !hint;
    for (const action of ACTIONS) this.#renderButton(action, filter);
  }

  close() {
    this.#stop();
  }

  /** Show the bar, and keep what the keyboard has reached visible: the bar covers the end of the window. */
  async #show() {
    this.element.hidden = false;
    await this.#styles;
    const { activeElement } = document;
    if (activeElement.matches(":focus-visible")) activeElement.scrollIntoView({ block: "nearest" });
  }

  #hide() {
    const hadFocus = this.element.contains(document.activeElement);
    this.element.hidden = true;
    if (hadFocus) this.#focusList();
  }

  #hintText(filter) {
    if (!this.#isAll) return this.#selection.size > MAX_SELECTED ? `At most ${MAX_SELECTED} can be selected one by one.` : "";
    if (bulkActionOf("runAgain", filter)) return "";
    return "Choose Failed, Cancelled or Succeeded to run all of these again.";
  }

  get #selected() {
    return [...this.#selection].map((id) => this.#jobOf(id)).filter(Boolean);
  }

  /** A button without effect stays focusable: a disabled one would lose the focus. */
  #renderButton(action, filter) {
    const { text, some, all } = LABELS[action];
    const button = this.#buttons[action];
    const selected = this.#selected;
    const count = selected.filter((job) => applies(action, job)).length;
    const isUseful = this.#isAll ? bulkActionOf(action, filter) !== null : count > 0 && selected.length <= MAX_SELECTED;
    setAttribute(button, "aria-disabled", isUseful ? null : "true");
    if (this.#isAll) setText(button, isUseful ? all : text);
    else setText(button, count > 0 && count < selected.length ? some(count) : text);
  }

  #toggleAll() {
    if (this.#isBusy) return;
    this.#isAll = !this.#isAll;
    this.update();
  }

  async #act(action) {
    if (this.#isBusy || this.#buttons[action].ariaDisabled === "true") return;
    this.#isBusy = true;
    for (const button of Object.values(this.#buttons)) button.ariaDisabled = "true";
    try {
      const onProgress = (done, all) => setText(this.#text, `${done.toLocaleString()} of ${all.toLocaleString()} …`);
      const done = await this.#actions.bulk(action, this.#isAll ? this.#matching().filter : this.#selected, onProgress);
      if (done) this.#selection.toggle(done, false);
    } finally {
      this.#isBusy = false;
      this.update();
    }
  }
}

function allText(count) {
  return count ? `All ${count.toLocaleString()} jobs that match` : "All jobs that match";
}
