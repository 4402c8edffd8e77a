/** The workers: where each runs, what it can run, how busy it is, and when it was last heard. */

import { h, setAttribute } from "/assets/dom.js";
import { FleetTable } from "/assets/fleet-table.js";
import { ageText } from "/assets/format.js";
import { decode, urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

const SILENT_MS = 12_000; // a worker posts itself every five seconds
const FORGET_MS = 600_000; // after which a silent worker is no longer shown
const MAX_KINDS = 6; // that are shown at once

export default class WorkersView {
  #unsubscribe;
  #workers = new Map(); // by id, with those that have become silent
  #wanted = null; // the id that the URL names, "" for none
  #shown = null; // its row, once the window has scrolled to it
  #summary = h("p", { class: "soft" });
  #table = new FleetTable({
    title: "Workers",
    subject: "workers",
    columns: ["Worker", "Version", "Queue", "Kinds", "Busy", "Last heard"],
    parts: [this.#summary],
    empty: [h("p", {}, "No worker runs. Jobs wait until one does:"), h("pre", {}, "headway worker --jobs myapp.jobs")],
    createRow: () => new WorkerRow(),
  });
  element = this.#table.element;

  constructor(app) {
    document.title = "Workers · Headway";
    this.#unsubscribe = app.data.workers.subscribe((data, error) => this.#show(data, error));
  }

  /** Mark the worker that the hash of the URL names. */
  update({ hash }) {
    this.#wanted = hash && decode(hash);
    this.#table.mark(this.#wanted);
    this.#showWanted();
  }

  close() {
    this.#unsubscribe();
  }

  #show(data, error) {
    this.#table.showProblem(error);
    if (!data) return;
    const now = Date.parse(data.now);
    for (const worker of data.workers) this.#workers.set(worker.id, worker);
    const listed = new Set(data.workers.map(({ id }) => id));
    for (const [id, { seen_at: seen }] of this.#workers) if (!listed.has(id) && now - Date.parse(seen) > FORGET_MS) this.#workers.delete(id);
    const sorted = [...this.#workers].sort(([a], [b]) => listed.has(b) - listed.has(a) || a.localeCompare(b));
    this.#table.show(new Map(sorted), (row, worker) => row.render(worker, now, listed.has(worker.id)));
    this.#showWanted();
    const total = (name) => data.workers.reduce((sum, worker) => sum + worker[name], 0);
    setText(this.#summary, `${total("running").toLocaleString()} of ${total("slots").toLocaleString()} slots busy on ${countText(listed.size)}`);
  }

  /** Scroll to the worker that the URL names, once. */
  #showWanted() {
    const row = this.#table.rows.get(this.#wanted);
    if (!row || row === this.#shown) return;
    this.#shown = row;
    row.element.scrollIntoView({ block: "center" });
  }
}

class WorkerRow {
  #name = h("th", { scope: "row", class: "worker" }, h("code", { dir: "auto" }), h("small", { dir: "auto" }));
  #version = h("td", { class: "soft", "data-label": "Version" });
  #queue = h("td", { "data-label": "Queue" }, h("span", { dir: "auto" }), h("small"));
  #kinds = h("td", { class: "kinds" });
  #busy = h("td", { class: "busy", "data-label": "Busy" }, h("span"), h("div", { class: "track", "aria-hidden": "true" }, h("div")));
  #heard = h("td");
  #shownKinds = "";
  element = h("tr", {}, this.#name, this.#version, this.#queue, this.#kinds, this.#busy, this.#heard);

  render({ id, host, version, queue, kinds, slots, running, queue_depth: depth, seen_at: seen }, now, isListed) {
    const isSilent = !isListed || now - Date.parse(seen) > SILENT_MS;
    setAttribute(this.element, "data-tone", isSilent ? "lost" : null);
    setText(this.#name.children[0], id);
    setText(this.#name.children[1], id.startsWith(host) ? "" : host);
    setText(this.#version, version);
    setText(this.#queue.children[0], queue);
    setText(this.#queue.children[1], depth === null ? "" : `${depth.toLocaleString()} on the queue`);
    setText(this.#busy.children[0], isListed ? `${running.toLocaleString()} of ${slots.toLocaleString()}` : "–");
    this.#busy.lastChild.firstChild.style.transform = `scaleX(${isListed && slots ? Math.min(1, running / slots) : 0})`;
    const age = ageText(seen, now);
    setAttribute(this.#heard, "data-label", isSilent ? null : "Last heard");
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
