/** The kinds of jobs: how often each runs, how long it takes, how often it fails; and a form that runs one. */

import { h, setAttribute } from "/assets/dom.js";
import { FleetTable } from "/assets/fleet-table.js";
import { preciseDurationText } from "/assets/format.js";
import { isReserved } from "/assets/job-requests.js";
import { urlOf } from "/assets/router.js";
import { RunForm } from "/assets/run-form.js";
import { sparkline } from "/assets/sparkline.js";
import { setText } from "/assets/text.js";

const COLUMNS = ["Kind", "Last 24 hours", "Per hour", "Median", "95 % within", "Failed", "Workers", ""];
const MANY_FAILURES = 0.05;
const rateFormat = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const lowRateFormat = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const percentFormat = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

export default class KindsView {
  #app;
  #unsubscribe;
  #kinds = new Map(); // by name
  #form = null; // of the kind that the URL names
  #name = null;
  #panel = h("div");
  #table;

  constructor(app) {
    this.#app = app;
    this.#table = new FleetTable({
      title: "Kinds",
      subject: "kinds",
      columns: COLUMNS,
      className: "kinds-table",
      parts: [this.#panel],
      empty: [h("p", {}, "No kind is known yet. A worker brings its kinds:"), h("pre", {}, "headway worker --jobs myapp.jobs")],
      createRow: (name) => new KindRow(name, app.session.canOperate && !isReserved(name)),
    });
    this.element = this.#table.element;
    this.#unsubscribe = app.data.kinds.subscribe((data, error) => this.#show(data, error));
  }

  update({ name }) {
    this.#name = name;
    this.#table.mark(name);
    document.title = `${name ?? "Kinds"} · Headway`;
    this.#showForm();
  }

  close() {
    this.#unsubscribe();
  }

  #show(data, error) {
    this.#table.showProblem(error, data?.complete === false ? "Jobs may be missing in these numbers: the index is being repaired." : "");
    if (!data) return;
    this.#kinds = new Map(data.kinds.map((kind) => [kind.kind, kind]));
    this.#table.show(this.#kinds, (row, kind) => row.render(kind));
    this.#showForm();
  }

  /** Show the form of the kind in the URL; it stays when the kinds are read again, and has fields once a worker brings them. */
  #showForm() {
    const kind = this.#kinds.get(this.#name);
    if (!kind || !this.#app.session.canOperate || isReserved(this.#name)) {
      this.#form = null;
      return this.#panel.replaceChildren();
    }
    if (this.#form?.kind === this.#name) return this.#form.offerFields(kind.schema);
    this.#form = new RunForm(this.#app, kind);
    this.#panel.replaceChildren(this.#form.element);
    this.#form.focus();
  }
}

class KindRow {
  #link = h("a", { dir: "auto", translate: "no" });
  #spark = h("td", { class: "spark-cell" });
  #rate = h("td", { class: "number" });
  #median = h("td", { class: "number" });
  #slow = h("td", { class: "number" });
  #failed = h("td", { class: "number" });
  #workers = h("td", { class: "number" });
  #shownHours = "";

  constructor(name, canRun) {
    const run = h("a", { class: "button", href: urlOf("kinds", { name }), "aria-label": `Run ${name}` }, "Run…");
    const cells = [this.#spark, this.#rate, this.#median, this.#slow, this.#failed, this.#workers, h("td", { class: "act" }, canRun && run)];
    const labels = COLUMNS.slice(1);
    cells.forEach((cell, index) => setAttribute(cell, "data-label", labels[index] || null));
    setText(this.#link, name);
    this.#link.href = urlOf("jobs", { query: { kind: name } });
    this.element = h("tr", {}, h("th", { scope: "row" }, this.#link), ...cells);
  }

  render({ hours, rate_per_h: rate, duration_s: duration, failure_share: failed, workers }) {
    const text = JSON.stringify(hours);
    if (text !== this.#shownHours) this.#spark.replaceChildren(sparkline(hours));
    this.#shownHours = text;
    setText(this.#rate, (rate < 1 ? lowRateFormat : rateFormat).format(rate));
    setText(this.#median, secondsText(duration?.p50));
    setText(this.#slow, secondsText(duration?.p95));
    setText(this.#failed, failed === null ? "–" : `${percentFormat.format(failed * 100)} %`);
    setAttribute(this.#failed, "data-tone", failed >= MANY_FAILURES ? "failed" : null);
    setText(this.#workers, workers ? workers.toLocaleString() : "none");
    setAttribute(this.#workers, "data-tone", workers ? null : "stalled");
  }
}

function secondsText(seconds) {
  return seconds === undefined ? "–" : preciseDurationText(1000 * seconds);
}
