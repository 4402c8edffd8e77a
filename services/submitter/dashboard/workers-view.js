/** The workers: where each runs, what it can run, how busy it is, and when it was last heard. */

import { arrange, h, loadStyles, setAttribute } from "/assets/dom.js";
import { ageText } from "/assets/format.js";
import { Refresh } from "/assets/refresh.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

const SILENT_MS = 12_000; // a worker posts itself every five seconds
const FORGET_MS = 600_000; // after which a silent worker is no longer shown
const MAX_KINDS = 6; // that are shown at once
const COLUMNS = ["Worker", "Version", "Queue", "Kinds", "Busy", "Last heard"];

export default class WorkersView {
  #app;
  #refresh;
  #rows = new Map(); // by the worker's id
  #workers = new Map(); // by id, with those that have become silent
  #wanted = null; // the id that the URL names, "" for none
  #shown = null; // its row, once the window has scrolled to it
  #problem = h("p", { class: "problem", role: "status" });
  #summary = h("p", { class: "soft" });
  #body = h("tbody");
  #empty = h("div", { class: "empty", hidden: true }, h("p", {}, "No worker runs. Jobs wait until one does:"), h("pre", {}, "headway worker --jobs myapp.jobs"));
  #table;

  constructor(app) {
    this.#app = app;
    loadStyles("fleet-view.css");
    document.title = "Workers · Headway";
    const heading = h("h1", { id: "workers-title", tabindex: -1 }, "Workers");
    const head = h("tr", {}, ...COLUMNS.map((text) => h("th", { scope: "col" }, text)));
    this.#table = h("table", { class: "fleet", "aria-labelledby": "workers-title", hidden: true }, h("thead", {}, head), this.#body);
    this.element = h("section", { class: "fleet-view" }, heading, this.#summary, this.#problem, this.#empty, this.#table);
    this.#refresh = new Refresh(() => app.api.live("/live/workers"), (data, error) => this.#show(data, error));
  }

  /** Mark the worker that the hash of the URL names. */
  update({ hash }) {
    this.#wanted = hash && decode(hash);
    for (const [id, row] of this.#rows) row.mark(id === this.#wanted);
    this.#showWanted();
  }

  close() {
    this.#refresh.close();
  }

  #show(data, error) {
    setText(this.#problem, error ? problemText(error) : "");
    setAttribute(this.#table, "data-stale", Boolean(error));
    if (!data) return;
    const now = Date.parse(data.now);
    for (const worker of data.workers) this.#workers.set(worker.id, worker);
    const listed = new Set(data.workers.map(({ id }) => id));
    this.#forget(now, listed);
    const workers = [...this.#workers.values()].sort((a, b) => listed.has(b.id) - listed.has(a.id) || a.id.localeCompare(b.id));
    arrange(this.#body, workers.map(({ id }) => id), (id) => this.#createRow(id));
    for (const worker of workers) this.#rows.get(worker.id).render(worker, now, listed.has(worker.id));
    this.#table.hidden = !workers.length;
    this.#empty.hidden = workers.length > 0;
    const total = (name) => data.workers.reduce((sum, worker) => sum + worker[name], 0);
    this.#showWanted();
    setText(this.#summary, `${total("running").toLocaleString()} of ${total("slots").toLocaleString()} slots busy on ${countText(listed.size)}`);
  }

  #createRow(id) {
    const row = new WorkerRow();
    row.mark(id === this.#wanted);
    this.#rows.set(id, row);
    return row.element;
  }

  /** Scroll to the worker that the URL names, once. */
  #showWanted() {
    const row = this.#rows.get(this.#wanted);
    if (!row || row === this.#shown) return;
    this.#shown = row;
    row.element.scrollIntoView({ block: "center" });
  }

  #forget(now, listed) {
    for (const [id, { seen_at: seen }] of this.#workers) {
      if (listed.has(id) || now - Date.parse(seen) <= FORGET_MS) continue;
      this.#workers.delete(id);
      this.#rows.delete(id);
    }
  }
}

class WorkerRow {
  #name = h("th", { scope: "row", class: "worker" }, h("code", { dir: "auto" }), h("small", { dir: "auto" }));
  #version = h("td", { class: "soft" });
  #queue = h("td", {}, h("span", { dir: "auto" }), h("small"));
  #kinds = h("td", { class: "kinds" });
  #busy = h("td", { class: "busy" }, h("span"), h("div", { class: "track", "aria-hidden": "true" }, h("div")));
  #heard = h("td");
  #shownKinds = "";
  element = h("tr", {}, this.#name, this.#version, this.#queue, this.#kinds, this.#busy, this.#heard);

  /** Mark the row that a link leads to, or no longer. */
  mark(isWanted) {
    setAttribute(this.element, "aria-current", isWanted ? "true" : null);
  }

  render({ id, host, version, queue, kinds, slots, running, queue_depth: depth, seen_at: seen }, now, isListed) {
    const isSilent = !isListed || now - Date.parse(seen) > SILENT_MS;
    setAttribute(this.element, "data-tone", isSilent ? "lost" : null);
    setText(this.#name.children[0], id);
    setText(this.#name.children[1], id.startsWith(host) ? "" : host);
    setText(this.#version, version);
    setText(this.#queue.children[0], queue);
    setText(this.#queue.children[1], depth === null ? "" : `${depth.toLocaleString()} waiting`);
    setText(this.#busy.children[0], isListed ? `${running} of ${slots}` : "–");
    this.#busy.lastChild.firstChild.style.transform = `scaleX(${isListed && slots ? Math.min(1, running / slots) : 0})`;
    const age = ageText(seen, now);
    setText(this.#heard, isSilent ? `Silent, last heard ${age}` : age);
    this.#renderKinds(kinds);
  }

  #renderKinds(kinds) {
    const text = kinds.join("\n");
    if (text === this.#shownKinds) return;
    this.#shownKinds = text;
    const links = kinds.map((kind) => h("a", { href: urlOf("kinds", { name: kind }), dir: "auto" }, kind));
    const shown = links.length > MAX_KINDS ? links.slice(0, MAX_KINDS - 1) : links;
    const rest = links.slice(shown.length);
    this.#kinds.replaceChildren(...shown, ...(rest.length ? [h("details", {}, h("summary", {}, `${rest.length} more`), ...rest)] : []));
  }
}

function countText(count) {
  return count === 1 ? "1 worker" : `${count.toLocaleString()} workers`;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // not encoded
  }
}

function problemText(error) {
  return error.status === 403 ? "Only a key with the role operate shows the workers." : `The workers cannot be shown now. ${error.message}`;
}
