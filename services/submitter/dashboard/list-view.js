/** The view of all jobs: tabs of statuses, filters, the hours of the last day, and the live list. */

import { h, loadStyles, setAttribute } from "/assets/dom.js";
import { Filters } from "/assets/filters.js";
import { connectionText } from "/assets/format.js";
import { HourChart } from "/assets/hour-chart.js";
import { JobCounts } from "/assets/job-counts.js";
import { JobFilter } from "/assets/job-filter.js";
import { DEFAULT_LIMIT } from "/assets/job-list.js";
import { LiveJobs } from "/assets/live-jobs.js";
import { RowActions } from "/assets/row-actions.js";
import { shortDuration } from "/assets/row-texts.js";
import { StatusTabs, listTitle } from "/assets/status-tabs.js";
import { setText } from "/assets/text.js";

const MAX_SKEW_MS = 300_000; // a computer whose clock is further from the server's would select other jobs
const ANNOUNCE_MS = 10_000; // at least, between two announcements of new jobs
const INCOMPLETE = "Jobs may be missing: the index is being repaired.";

export default class ListView {
  #app;
  #counts;
  #list;
  #actions;
  #heading = h("h1", { tabindex: -1 }, "Jobs");
  #rows;
  #groups = null; // of failures, while they are shown instead of the list
  #tabs = new StatusTabs();
  #filters;
  #chart = new HourChart();
  #skewMs = 0; // with which the filter was created
  #query = null; // of the route
  #renderKey = ""; // what all but the rows depend on
  #emptyKey = ""; // what the texts in place of the rows depend on
  #announcedAt = -Infinity;
  #isNew = false; // whether another list is loading, whose length will be announced
  #unbind;
  #workers = h("p");
  #notice = h("p", { class: "soft", role: "status" });
  #problem = h("p", { class: "problem", role: "alert" });
  #fact = h("p", { class: "soft" });
  #fresh = h("button", { type: "button", class: "button main fresh", hidden: true, click: () => this.#showNew() });
  #announcer = h("p", { class: "visually-hidden", role: "status" });
  #empty = h("div", {});
  #older = h("button", { type: "button", class: "button older", hidden: true, click: () => this.#showOlder() }, "Show older jobs");

  constructor(app) {
    this.#app = app;
    this.#counts = new JobCounts(app.data, () => this.#onCounts());
    this.#list = new LiveJobs(app, () => this.#render());
    this.#actions = new RowActions(app, this.#list.table, () => this.#matching());
    this.#filters = new Filters(app, this.#counts);
    this.#unbind = app.keyboard.bind({ n: { label: "Show newer jobs", run: () => this.#fresh.hidden || this.#showNew() } });
    const bar = h("div", { class: "list-bar" }, this.#workers, this.#notice, this.#problem, this.#fact);
    this.#rows = h("div", {}, h("div", { class: "fresh-slot" }, this.#fresh), bar, this.#list.table.element, this.#empty, this.#older, this.#actions.element, this.#announcer);
    this.element = h("div", { class: "list" }, h("header", { class: "top" }, this.#heading), this.#tabs.element, this.#filters.element, this.#chart.element, this.#rows);
  }

  /** Show the list that the URL names. */
  update({ query }) {
    this.#query = query;
    this.#show();
  }

  close() {
    this.#unbind();
    this.#counts.close();
    this.#list.close();
    this.#actions.close();
    this.#query = null;
    this.#groups?.close();
  }

  #show() {
    this.#skewMs = this.#app.api.skewMs;
    const filter = new JobFilter(this.#query, this.#app.api.now());
    document.title = `${listTitle(filter.get("status"))} · Headway`;
    this.#filters.render(filter);
    this.#isNew ||= this.#list.filter !== null;
    this.#list.show(filter);
    this.#showGroups(filter.isGrouped);
    this.#render();
  }

  /** Show groups of failures in place of the rows, which stay until then, or no longer. */
  async #showGroups(isGrouped) {
    if (isGrouped && this.#groups) return this.#groups.update(this.#query);
    if (isGrouped) {
      const { FailureGroups } = await import("/assets/failure-groups.js").catch((error) => this.#app.notices.showError("The failures could not be shown.", error) ?? {});
      if (!FailureGroups || this.#groups || !this.#query || !this.#list.filter.isGrouped) return; // the operator has left meanwhile
      this.#groups = new FailureGroups(this.#app, { query: this.#query });
      this.#rows.replaceWith(this.#groups.element);
    } else if (this.#groups) {
      this.#groups.close();
      this.#keepFocus(() => this.#groups.element.replaceWith(this.#rows));
      this.#groups = null;
    }
  }

  #onCounts() {
    if (Math.abs(this.#app.api.skewMs - this.#skewMs) > MAX_SKEW_MS) this.#show();
    else this.#render();
  }

  /** Render all but the rows, if any of it has changed. */
  #render() {
    const { filter, state, table } = this.#list;
    if (!filter) return;
    this.#actions.update();
    const { jobs, fresh, isOutdated, hasMore, loading, complete, connection, error } = state;
    const key = JSON.stringify([filter.href(), this.#counts.version, jobs?.length, fresh, isOutdated, hasMore, loading, complete, connection, error]);
    if (key === this.#renderKey) return;
    this.#renderKey = key;
    this.#tabs.render(filter, this.#counts, jobs && { count: jobs.length, hasMore });
    this.#chart.render(this.#counts.hours(filter.kind), filter);
    this.#renderBar(state);
    setAttribute(table.element, "aria-busy", jobs || error ? null : "true");
    this.#keepFocus(() => {
      table.element.hidden = jobs?.length === 0 || Boolean(rejection(state));
      this.#renderEmpty(state);
    });
    this.#renderOlder(state);
    if (this.#isNew && jobs) this.#announceLength(jobs.length, hasMore);
  }

  /** Change what is shown. If the focus was on what disappears, the table gets it, or the heading above no rows. */
  #keepFocus(change) {
    const focused = document.activeElement;
    const hadFocus = this.element.contains(focused);
    change();
    if (!hadFocus || (focused.isConnected && !focused.closest("[hidden]"))) return;
    const { element } = this.#list.table;
    (element.hidden ? this.#heading : element).focus({ preventScroll: true });
  }

  /** Return what an action on all jobs that match is about. */
  #matching() {
    const { filter } = this.#list;
    return { filter: filter.fields, count: this.#counts.of(filter, filter.get("status")) };
  }

  #renderBar(state) {
    const { jobs, connection, complete, error, fresh, isOutdated } = state;
    const loading = jobs || error || this.#list.table.rows.length ? "" : "Loading…";
    setText(this.#notice, (error ? "" : connectionText(connection, jobs)) || loading || (complete && this.#counts.complete ? "" : INCOMPLETE));
    setText(this.#problem, rejection(state) ? "" : (error?.message ?? ""));
    setText(this.#fact, this.#factText());
    const count = `${fresh}${fresh >= DEFAULT_LIMIT ? "+" : ""} new ${fresh === 1 ? "job" : "jobs"}`;
    setText(this.#fresh, fresh ? count : "Update the list");
    this.#fresh.hidden = !isOutdated;
    if (fresh) this.#announce(count);
  }

  /** Return since when jobs wait, where the list is about that: the oldest may be a job to retry, which another list has. */
  #factText() {
    const { filter } = this.#list;
    const { about } = this.#counts;
    if (filter.get("status") !== "queued" || filter.isNarrowed || !about?.oldest || about.retrying !== 0) return "";
    return `One job has waited for ${shortDuration(this.#app.api.now() - Date.parse(about.oldest))}, the others for less.`;
  }

  #announceLength(length, hasMore) {
    this.#isNew = false;
    this.#announcedAt = -Infinity;
    this.#announce(`${hasMore ? `The newest ${length}` : length} ${length === 1 ? "job" : "jobs"}`);
  }

  #announce(text) {
    if (performance.now() < this.#announcedAt + ANNOUNCE_MS) return;
    if (setText(this.#announcer, text)) this.#announcedAt = performance.now();
  }

  /** Say why there are no rows, and that no worker runs, if that has changed. */
  #renderEmpty(state) {
    const { filter } = this.#list;
    const reason = rejection(state);
    const waiting = this.#counts.hasNoWorker ? this.#counts.about.waiting : 0;
    const isEmpty = state.jobs?.length === 0;
    const key = JSON.stringify([isEmpty, (isEmpty || reason) && filter.href(), isEmpty && this.#counts.hasJobs, waiting, reason]);
    if (key === this.#emptyKey) return;
    this.#emptyKey = key;
    this.#empty.replaceChildren();
    this.#workers.replaceChildren();
    if (isEmpty || waiting) this.#loadEmpty(key, isEmpty, waiting);
    if (reason) this.#loadRejection(key, reason);
  }

  /** Most lists never need these texts, so their module is loaded on demand. */
  async #loadEmpty(key, isEmpty, waiting) {
    const [texts] = await Promise.all([import("/assets/empty-list.js"), loadStyles("empty-list.css")]).catch(() => []); // the tabs say as much
    if (!texts || key !== this.#emptyKey) return;
    if (isEmpty) this.#empty.replaceChildren(texts.emptyList(this.#list.filter, this.#counts, this.#app.session));
    if (waiting) this.#workers.replaceChildren(...texts.noWorker(waiting));
  }

  async #loadRejection(key, reason) {
    const [{ rejectedList }] = await Promise.all([import("/assets/filter-problem.js"), loadStyles("empty-list.css")]).catch((error) => [{ rejectedList: () => error.message }]);
    if (key === this.#emptyKey) this.#empty.replaceChildren(rejectedList(this.#list.filter, reason));
  }

  #renderOlder({ jobs, hasMore, loading }) {
    const isFocused = document.activeElement === this.#older;
    this.#older.hidden = !jobs || !hasMore;
    setAttribute(this.#older, "aria-disabled", loading ? "true" : null);
    setText(this.#older, loading ? "Loading…" : "Show older jobs");
    if (isFocused && this.#older.hidden) this.#list.table.focusRow(this.#list.table.rows.at(-1));
  }

  /** Show the newest jobs; the focus goes to the first one, since the button disappears. */
  #showNew() {
    const { table } = this.#list;
    this.#list.release();
    table.focusRow(table.rows[0]);
    this.element.scrollIntoView({ block: "nearest" });
    if (table.element.getBoundingClientRect().top < 0) table.element.scrollIntoView();
  }

  #showOlder() {
    if (!this.#list.state.loading) this.#list.more();
  }
}

/** Return why the server rejects the filter, "" if it does not. */
function rejection({ jobs, error }) {
  return !jobs && error?.code === "invalid" ? error.message : "";
}
