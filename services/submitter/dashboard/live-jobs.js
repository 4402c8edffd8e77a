/**
 * The live list in its table. Its rows stay as they are until the operator releases them: newer jobs are counted
 * meanwhile, and a job whose status has changed keeps its row.
 */

import { errorText } from "/assets/format.js";
import { INITIAL_STATE } from "/assets/job-list.js";
import { JobTable } from "/assets/job-table.js";
import { hidesError } from "/assets/row-texts.js";
import { watchJobs } from "/assets/watch-jobs.js";

const RENDER_MS = 100; // at least, between two renderings
const TICK_MS = 1000;

export class LiveJobs {
  /** The state of the list, as `watchJobs` passes it. */
  state = INITIAL_STATE;
  /** The filter of the list. */
  filter = null;
  table;
  #app;
  #onState;
  #errors = null; // the true ones, once a visible row hides one
  #watch = null;
  #fields = null; // of the watch, as JSON
  #renderTimer = null;
  #renderedAt = -Infinity;
  #tick = setInterval(() => this.#renderVisible(), TICK_MS);

  /**
   * @param {object} app
   * @param {() => void} onState called when the state has changed and the rows are rendered
   */
  constructor(app, onState) {
    this.#app = app;
    this.#onState = onState;
    this.table = new JobTable({ canSelect: app.session.canOperate, onVisible: (ids) => this.#onVisible(ids) });
    document.addEventListener("visibilitychange", this);
  }

  close() {
    this.#watch?.close();
    this.#watch = null;
    clearInterval(this.#tick);
    clearTimeout(this.#renderTimer);
    document.removeEventListener("visibilitychange", this);
    this.table.close();
  }

  /** Show the jobs of a filter; return whether it is another list, whose rows replace the present ones when it has arrived. */
  show(filter) {
    const isOther = filter.href() !== this.filter?.href();
    this.filter = filter;
    const fields = JSON.stringify(filter.fields);
    if (fields === this.#fields) return false;
    this.#fields = fields;
    this.#watch?.close();
    if (isOther) this.table.selection.clear();
    this.state = INITIAL_STATE;
    this.#watch = watchJobs({ token: this.#app.session.tokens(), filter: filter.fields }, (state) => this.#onChange(state));
    this.#onState();
    return true;
  }

  /** Show the list as it is now. If its time counts back from now, it begins later than before. */
  release() {
    if (this.show(this.filter.at(this.#app.api.now()))) return;
    this.#watch?.hold(false);
    this.#watch?.hold(true);
    this.#render();
  }

  /** Load older jobs. */
  more() {
    this.#watch.more();
  }

  #onChange(state) {
    const isFirst = state.jobs && !this.state.jobs;
    this.state = state;
    if (state.connection === "live") this.#app.api.heard();
    if (isFirst) this.#watch.hold(true);
    if (state.isOutdated && state.jobs?.length === 0) return this.release();
    this.#schedule();
  }

  #schedule() {
    const delay = Math.max(0, this.#renderedAt + RENDER_MS - performance.now());
    this.#renderTimer ??= setTimeout(() => requestAnimationFrame(() => this.#render()), delay);
  }

  #render() {
    clearTimeout(this.#renderTimer);
    this.#renderTimer = null;
    if (!this.#watch) return;
    this.#renderedAt = performance.now();
    const { jobs, error } = this.state;
    if (jobs) this.#renderRows(jobs);
    else if (error) this.table.arrange([]);
    this.#onState();
  }

  #renderRows(jobs) {
    this.table.nameTimes(this.filter.isByEnd);
    this.table.arrange(jobs.map(({ id }) => id));
    for (const job of jobs) {
      const row = this.table.row(job.id);
      if (row.snapshot === job) continue;
      row.receivedAt = this.#watch.now();
      this.#renderRow(job);
    }
    this.#renderVisible();
  }

  /** Render the rows that the window shows: they show ages and countdowns. */
  #renderVisible() {
    if (!this.#watch || document.hidden) return;
    const { visible } = this.table;
    for (const job of visible) this.#renderRow(job);
    const hidden = visible.filter(hidesError);
    if (hidden.length) this.#requestErrors(hidden);
  }

  async #requestErrors(jobs) {
    if (!this.#errors) {
      const { TrueErrors } = await import("/assets/true-errors.js").catch(() => ({}));
      if (!TrueErrors) return;
      this.#errors ??= new TrueErrors(this.#app.api, () => this.#schedule());
    }
    this.#errors.request(jobs);
  }

  #renderRow(job) {
    const error = this.state.errors.get(job.id)?.message ?? (this.#errors?.textOf(job) || errorText(job.error));
    const row = this.table.row(job.id);
    const [now, confirmedUntil] = [this.#watch.now(), Math.max(this.#watch.confirmedUntil(job.id), row.receivedAt)];
    row.render(job, { now, confirmedUntil, isByEnd: this.filter.isByEnd, error });
  }

  #onVisible(ids) {
    this.#watch?.setVisible(ids);
    this.#schedule();
  }

  /** Show the present list to an operator who comes back to the tab, unless rows are in use. */
  handleEvent() {
    const isInUse = this.table.selection.size || this.table.focused || scrollY > this.table.element.offsetTop;
    if (!document.hidden && this.filter && !isInUse) this.release();
  }
}
