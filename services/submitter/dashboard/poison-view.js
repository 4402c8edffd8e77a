/** The poison queue: jobs that have used up their attempts, why each one failed, and what to do about it. */

import { JobActions } from "/assets/actions.js";
import { JOB_ID, readDetails } from "/assets/details.js";
import { h } from "/assets/dom.js";
import { FleetTable } from "/assets/fleet-table.js";
import { ageText } from "/assets/format.js";
import { parseExactly } from "/assets/json.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

const UNREADABLE = "Unreadable message";
const MAX_READS = 4; // of details at the same time

export default class PoisonView {
  #app;
  #actions;
  #unsubscribe;
  #jobs = new Map(); // by id
  #reasons = new Map(); // by id and generation; null while one is read
  #reading = 0;
  #note = h("p", { class: "soft" });
  #table;

  constructor(app) {
    this.#app = app;
    this.#actions = new JobActions(app);
    document.title = "Poison queue · Headway";
    this.#table = new FleetTable({
      title: "Poison",
      subject: "poison queue",
      columns: ["Job", "Reason", "Payload", "Since", ""],
      parts: [h("p", { class: "soft" }, "Jobs that have used up their attempts wait here until they are run again or discarded."), this.#note],
      empty: [h("p", {}, "The poison queue is empty: no job has used up its attempts, or all have been dealt with.")],
      createRow: (id) => new PoisonRow(id, (action) => this.#act(action, id)),
    });
    this.element = this.#table.element;
    this.#unsubscribe = app.data.poison.subscribe((data, error) => this.#show(data, error));
  }

  update() {}

  close() {
    this.#unsubscribe();
  }

  #show(data, error) {
    this.#table.showProblem(error);
    if (!data) return;
    const jobs = parseJobs(data.text);
    this.#jobs = new Map(jobs.map((job) => [job.id, job]));
    const keys = new Set(jobs.map(keyOf));
    for (const [key, reason] of this.#reasons) if (reason !== null && !keys.has(key)) this.#reasons.delete(key);
    this.#render();
    setText(this.#note, data.complete ? "" : "There may be more: the queue shows only those at its front.");
    this.#readReasons();
  }

  #render() {
    const now = this.#app.api.now();
    this.#table.show(this.#jobs, (row, job) => row.render(job, job.problem ?? this.#reasons.get(keyOf(job)) ?? "", now));
  }

  async #act(action, id) {
    const { kind, ...job } = this.#jobs.get(id);
    if (await this.#actions[action]({ ...job, kind: kind ?? UNREADABLE })) this.#app.data.poison.now();
  }

  /** Read why the jobs failed, a few at a time, and each once. */
  #readReasons() {
    for (const job of this.#jobs.values()) {
      if (this.#reading >= MAX_READS) return;
      if (!job.problem && JOB_ID.test(job.id) && !this.#reasons.has(keyOf(job))) this.#readReason(job);
    }
  }

  async #readReason(job) {
    const key = keyOf(job);
    this.#reasons.set(key, null);
    this.#reading++;
    const reason = await readDetails(this.#app.api, job.id).then(reasonText, ({ status }) => (status === 404 ? "Its record has expired." : null));
    this.#reading--;
    if (reason === null) return this.#reasons.delete(key); // it is read again with the next refresh
    this.#reasons.set(key, reason);
    this.#render();
    this.#readReasons();
  }
}

class PoisonRow {
  #link;
  #kind = h("small", { dir: "auto", translate: "no" });
  #reason = h("td", { class: "reason", dir: "auto" });
  #payload = h("td", { class: "payload" });
  #since = h("td", { class: "soft since" });
  #payloadText = null;

  constructor(id, onAction) {
    this.#link = JOB_ID.test(id) ? h("a", { href: urlOf("job", { name: id }), dir: "auto" }) : h("span", { dir: "auto" });
    const redrive = h("button", { type: "button", class: "button", click: () => onAction("redrive") }, "Run again");
    const discard = h("button", { type: "button", class: "button danger", click: () => onAction("discard") }, "Discard…");
    this.redrive = redrive;
    this.element = h("tr", {}, h("th", { scope: "row" }, this.#link, this.#kind), this.#reason, this.#payload, this.#since, h("td", { class: "act" }, redrive, " ", discard));
  }

  render({ id, kind, name, inserted_at: inserted, payload, payload_bytes: bytes, messages, problem }, reason, now) {
    setText(this.#link, name ?? kind ?? UNREADABLE);
    setText(this.#kind, `${name && kind ? `${kind} · ` : ""}${id.slice(0, 8)}${messages > 1 ? ` · ${messages} messages` : ""}`);
    setText(this.#reason, reason);
    setText(this.#since, ageText(inserted, now));
    this.redrive.hidden = problem !== null;
    const text = bytes === null ? "" : payload === "null" && bytes > 4 ? `${bytes.toLocaleString()} bytes` : payload;
    if (text === this.#payloadText) return;
    this.#payloadText = text;
    this.#payload.replaceChildren(h("code", { dir: "ltr" }, text));
  }
}

/** Parse the jobs of an answer; payloads stay JSON texts, in which numbers are as they were written. */
function parseJobs(text) {
  const { value, stringify } = parseExactly(text);
  return JSON.parse(text).jobs.map((job, index) => ({ ...job, payload: stringify(value.jobs[index].payload) }));
}

function reasonText({ error }) {
  return error ? `${error.type}: ${error.message}` : "It has run since, and its record has no error.";
}

function keyOf({ id, generation }) {
  return `${id} ${generation}`;
}
