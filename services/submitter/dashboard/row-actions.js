/** What operators do with the rows of the list: the keys, the menu of a row, and the bar for the selected jobs. */

import { h } from "/assets/dom.js";
import { urlOf } from "/assets/router.js";
import { TableKeys } from "/assets/table-keys.js";

export class RowActions {
  /** Where the bar for the selected jobs is shown. */
  element = h("div", { class: "bulk" });
  #app;
  #table;
  #actions = null; // once they are needed, as a promise
  #keys;
  #bar = null; // once a job was selected
  #matching;
  #stop;

  /**
   * @param {object} app
   * @param {import("/assets/job-table.js").JobTable} table
   * @param {() => {filter: object, count: ?number}} matching returns the present filter of the list, as `watchJobs` takes
   *   it, and how many jobs match it, null if that is not known
   */
  constructor(app, table, matching) {
    this.#app = app;
    this.#table = table;
    this.#matching = matching;
    this.#stop = table.selection.onChange(() => this.#load(() => this.#openBar()));
    this.#keys = new TableKeys(app.keyboard, table, this.#bindings());
  }

  /** Show the actions for another state of the list. */
  update() {
    this.#bar?.update();
  }

  close() {
    this.#stop();
    this.#keys.close();
    this.#bar?.close();
    this.#table = null;
  }

  #bindings() {
    const act = (action) => (id) => this.#load(async () => {
      const actions = await this.#jobActions();
      const job = this.#jobOf(id); // gone if its row was removed meanwhile
      return job && actions[action](job);
    });
    const { selection } = this.#table;
    const everyone = {
      Enter: { label: "Open the job", run: (id) => this.#app.router.navigate(urlOf("job", { name: id })) },
      ".": { label: "More actions", run: (id) => this.#load(() => this.#openMenu(id)) },
    };
    if (!this.#app.session.canOperate) return everyone;
    return {
      ...everyone,
      x: { label: "Select the job", run: (id) => selection.toggle([id], !selection.has(id)) },
      c: { label: "Cancel the job", run: act("cancel") },
      r: { label: "Run the job again", run: act("runAgain") },
    };
  }

  #jobOf(id) {
    return this.#table?.row(id)?.snapshot;
  }

  /** Run what loads modules, and say if they cannot be loaded. */
  async #load(run) {
    try {
      await run();
    } catch (error) {
      this.#app.notices.showError("A part of the page could not be loaded; try again.", error);
    }
  }

  #jobActions() {
    this.#actions ??= import("/assets/actions.js").then(({ JobActions }) => new JobActions(this.#app));
    this.#actions.catch(() => (this.#actions = null));
    return this.#actions;
  }

  async #openMenu(id) {
    const [actions, { openRowMenu }] = await Promise.all([this.#jobActions(), import("/assets/row-menu.js")]);
    if (this.#table?.focused === id) return openRowMenu(this.#app, actions, this.#table.row(id));
  }

  /** Load the bar when the first job is selected. */
  async #openBar() {
    const [actions, { BulkBar }] = await Promise.all([this.#jobActions(), import("/assets/bulk-bar.js")]);
    if (!this.#table || this.#bar) return;
    this.#stop();
    const { selection } = this.#table;
    const list = { selection, matching: this.#matching, jobOf: (id) => this.#jobOf(id), focus: () => this.#keys.focus() };
    this.#bar = new BulkBar(this.#app, { ...list, actions });
    this.element.append(this.#bar.element);
    this.#bar.update();
  }
}
