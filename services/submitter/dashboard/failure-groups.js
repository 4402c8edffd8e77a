/** Failures by what they have in common: the kind of the jobs, and the type of their error. */

import { JobActions } from "/assets/actions.js";
import { ApiError } from "/assets/api.js";
import { arrange, h, loadStyles, setAttribute } from "/assets/dom.js";
import { filterProblem } from "/assets/filter-problem.js";
import { ageText, errorName } from "/assets/format.js";
import { JobFilter } from "/assets/job-filter.js";
import { Refresh } from "/assets/refresh.js";
import { urlOf } from "/assets/router.js";
import { TableKeys } from "/assets/table-keys.js";
import { cutText, setText } from "/assets/text.js";

const POLL_MS = 10_000;
const MAX_NAME = 100; // characters
const MAX_MESSAGES = 3; // of a group; more are counted

export class FailureGroups {
  element;
  #app;
  #actions;
  #query;
  #groups = new Map(); // by key: the card of the group
  #note = h("p", { class: "soft", role: "status" }, "Loading…");
  #list = h("ul", { class: "failure-groups", "aria-label": "Groups of failures" });
  #keys;
  #refresh = new Refresh(() => this.#read());
  #unsubscribe;

  /**
   * @param {object} app
   * @param {object} options
   * @param {URLSearchParams} options.query of the list's URL: all but its status counts
   */
  constructor(app, { query }) {
    loadStyles("failure-groups.css");
    this.#app = app;
    this.#actions = new JobActions(app);
    this.element = h("section", { class: "failures", "aria-label": "Failures" }, this.#note, this.#list);
    const again = { label: "Run all jobs of the group again", run: (key) => this.#groups.get(key).runAgain() };
    const keys = { Enter: { label: "Show the jobs of the group", run: (key) => this.#groups.get(key).title.click() } };
    this.#keys = new TableKeys(app.keyboard, this, app.session.canOperate ? { ...keys, r: again } : keys);
    this.#query = query;
    this.#unsubscribe = this.#refresh.subscribe((answer, error) => this.#show(answer, error), POLL_MS);
  }

  /** Show the groups for another query. */
  update(query) {
    this.#query = query;
    this.#refresh.now();
  }

  /** The keys of the groups, in their order. */
  get rows() {
    return [...this.#list.children].map(({ dataset }) => dataset.key);
  }

  /** The key of the group that has the focus, null if none has it. */
  get focused() {
    return document.activeElement?.closest(".group")?.dataset.key ?? null;
  }

  /** Focus a group: the link to its jobs. */
  focusRow(key) {
    this.#groups.get(key)?.title.focus();
  }

  close() {
    this.#keys.close();
    this.#unsubscribe();
  }

  get #filter() {
    return new JobFilter(this.#query, this.#app.api.now());
  }

  #read() {
    const { status, ...query } = this.#filter.fields; // all are failed
    return this.#app.api.live("/live/failures", query);
  }

  #show(answer, error) {
    if (!error) return this.#render(answer);
    if (!(error instanceof ApiError)) throw error;
    const isRejected = error.status === 422;
    setText(this.#note, isRejected ? filterProblem(this.#filter, error.message) : `The failures could not be loaded. ${error.message}`);
  }

  #render({ now, groups, complete }) {
    const causes = causesOf(groups);
    const count = groups.reduce((sum, group) => sum + group.count, 0);
    setText(this.#note, noteText(count, causes.length, complete));
    const keys = causes.map(({ key }) => key);
    const index = this.rows.indexOf(this.focused);
    this.#groups = arrange(this.#list, keys, () => new GroupCard(this.#app.session.canOperate, (cause) => this.#runAgain(cause)));
    if (index >= 0 && this.focused === null) this.focusRow(keys[Math.min(index, keys.length - 1)]); // its group has gone
    for (const cause of causes) this.#groups.get(cause.key).render(cause, this.#hrefOf(cause), Date.parse(now));
  }

  /** Return the URL of the list of a group's jobs. */
  #hrefOf({ kind, errorType }) {
    const query = new URLSearchParams(this.#query);
    query.delete("group");
    for (const [name, value] of Object.entries({ status: "failed", kind, error_type: errorType })) query.set(name, value);
    return urlOf("jobs", { query });
  }

  async #runAgain({ kind, errorType }) {
    await this.#actions.bulk("runAgain", { ...this.#filter.fields, status: ["failed"], kind, error_type: errorType });
    await this.#refresh.now();
  }
}

/** One group: how many jobs, their kind and error, its messages, when it last happened, and what to do about it. */
class GroupCard {
  element;
  #cause;
  #count = h("strong", { class: "group-count" });
  #type = h("bdi", {});
  #kind = h("code", { dir: "auto" });
  #latest = h("span", { class: "soft" });
  #messages = h("ul", { class: "group-messages" });
  #newest = h("a", { class: "plain link" }, "Newest job");
  #again;
  #runAgain;

  constructor(canOperate, runAgain) {
    /** The link to the jobs of the group. */
    this.title = h("a", { class: "group-title" }, this.#type, " ", h("span", { class: "soft" }, "in "), this.#kind);
    this.#runAgain = runAgain;
    this.#again = h("button", { type: "button", class: "button", click: () => this.runAgain() });
    const choices = h("div", { class: "group-choices" }, this.#newest, canOperate && this.#again);
    const what = h("div", {}, h("h2", {}, this.title), this.#messages);
    this.element = h("li", { class: "group", "data-tone": "failed" }, this.#count, what, h("div", { class: "group-side" }, this.#latest, choices));
  }

  render(cause, href, now) {
    const { kind, errorType, messages, count, latest, newest } = cause;
    this.#cause = cause;
    setText(this.#count, count.toLocaleString());
    const name = nameOf(cause);
    setText(this.#type, name);
    setText(this.#kind, kind);
    setText(this.#latest, latest ? `Last failed ${ageText(latest, now)}` : "");
    setAttribute(this.title, "href", href);
    setAttribute(this.#newest, "href", urlOf("job", { name: newest }));
    setText(this.#again, count === 1 ? "Run it again" : `Run all ${count.toLocaleString()} again`);
    this.#again.hidden = !errorType; // a filter cannot name it
    setAttribute(this.#again, "aria-label", `${this.#again.textContent}: ${name} in ${kind}`);
    const more = messages.length - MAX_MESSAGES;
    const texts = messages.length === 1 && name === messages[0].text ? [] : messages.slice(0, MAX_MESSAGES).map((message) => messageText(message, messages.length));
    if (more > 0) texts.push(`and ${more.toLocaleString()} other ${more === 1 ? "message" : "messages"}`);
    arrange(this.#messages, texts, (text) => h("li", { class: "cut" }, h("bdi", {}, text)));
  }

  /** Run all jobs of the group again, after a question. */
  async runAgain() {
    if (this.#again.hidden || this.#again.ariaDisabled === "true") return;
    this.#again.ariaDisabled = "true";
    try {
      await this.#runAgain(this.#cause);
    } finally {
      this.#again.ariaDisabled = null;
    }
  }
}

/**
 * Join the groups of a kind and a type of error: an action selects by these, whatever the messages are.
 *
 * @returns {{key: string, kind: string, errorType: string, count: number, latest: ?string, newest: string, messages:
 *   {text: string, count: number}[]}[]} the largest first
 */
function causesOf(groups) {
  const causes = new Map();
  for (const { kind, error_type: errorType, message, count, latest, jobs } of groups) {
    const key = JSON.stringify([kind, errorType]);
    const cause = causes.get(key) ?? { key, kind, errorType, count: 0, latest: null, newest: null, messages: [] };
    causes.set(key, cause);
    cause.count += count;
    cause.messages.push({ text: message, count });
    if (!cause.newest || latest > cause.latest) Object.assign(cause, { latest, newest: jobs[0] });
  }
  return [...causes.values()].sort((one, other) => other.count - one.count);
}

/** Return what a group is called: the type of its error or, if that says nothing, its message. */
function nameOf({ errorType, messages: [{ text }, ...others] }) {
  return cutText(errorName(errorType, text) || (errorType ? (others.length ? "Different messages" : text) : "No error"), MAX_NAME);
}

function messageText({ text, count }, messages) {
  const message = text || "(no message)";
  return messages === 1 || count === 1 ? message : `${count.toLocaleString()} × ${message}`;
}

function noteText(count, causes, complete) {
  if (!count) return complete ? "Nothing has failed in this time." : "No failure is found yet. The list lags at the moment.";
  const text = `${count.toLocaleString()} ${count === 1 ? "failure" : "failures"} with ${causes === 1 ? "one cause" : `${causes.toLocaleString()} causes`}`;
  return complete ? `${text}.` : `${text}. There may be more: only the newest 1,000 are grouped, and the list may lag.`;
}
