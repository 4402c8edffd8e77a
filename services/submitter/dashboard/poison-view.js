/** The poison queue: jobs that have used up their attempts, why each one failed, and what to do about it. */

import { JobActions } from "/assets/actions.js";
import { JOB_ID, withJsonTexts } from "/assets/details.js";
import { h } from "/assets/dom.js";
import { FleetTable } from "/assets/fleet-table.js";
import { ageText, nameText, shortId } from "/assets/format.js";
import { showHidden } from "/assets/hidden-characters.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";
import { TrueErrors } from "/assets/true-errors.js";

const UNREADABLE = "Unreadable message";
const NO_ERROR = { noError: "It has run since, and its record has no error.", noRecord: "Its record has expired." };

export default class PoisonView {
  #app;
  #actions;
  #unsubscribe;
  #jobs = new Map(); // by id
  #errors;
  #note = h("p", { class: "soft" });
  #table;

  constructor(app) {
    this.#app = app;
    this.#actions = new JobActions(app);
    this.#errors = new TrueErrors(app.api, () => this.#render(), NO_ERROR);
    document.title = "Poison queue · Headway";
    this.#table = new FleetTable({
      title: "Poison",
      subject: "poison queue",
      className: "poison-table",
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
    const { jobs } = withJsonTexts(data.text, ["payload"], { jobsOf: (answer) => answer.jobs });
    this.#jobs = new Map(jobs.map((job) => [job.id, job]));
    this.#render();
    setText(this.#note, data.complete ? "" : "There may be more: the queue shows only those at its front.");
    this.#errors.request(jobs.filter((job) => !job.problem && JOB_ID.test(job.id)));
  }

  #render() {
    const now = this.#app.api.now();
    this.#table.show(this.#jobs, (row, job) => row.render(job, job.problem ?? this.#errors.textOf(job), now));
  }

  async #act(action, id) {
    const { kind, ...job } = this.#jobs.get(id);
    if (await this.#actions[action]({ ...job, kind: kind ?? UNREADABLE })) this.#app.data.poison.now();
  }
}

class PoisonRow {
  #link;
  #kind = h("small", { dir: "auto", translate: "no" });
  #reason = h("div", { class: "cut", dir: "auto" });
  #payload = h("td", { class: "payload" });
  #since = h("td", { class: "soft since" });
  #payloadText = null;

  constructor(id, onAction) {
    this.#link = JOB_ID.test(id) ? h("a", { href: urlOf("job", { name: id }), dir: "auto" }) : h("span", { dir: "auto" });
    const redrive = h("button", { type: "button", class: "button", click: () => onAction("redrive") }, "Run again");
    const discard = h("button", { type: "button", class: "button danger", click: () => onAction("discard") }, "Discard…");
    this.redrive = redrive;
    this.element = h("tr", {}, h("th", { scope: "row" }, this.#link, this.#kind), h("td", { class: "reason" }, this.#reason), this.#payload, this.#since, h("td", { class: "act" }, redrive, " ", discard));
  }

  render({ id, kind, name, inserted_at: inserted, payload, payload_bytes: bytes, messages, problem }, reason, now) {
    setText(this.#link, nameText({ name, kind: kind ?? UNREADABLE }));
    setText(this.#kind, `${name && kind ? `${kind} · ` : ""}${shortId(id)}${messages > 1 ? ` · ${messages} messages` : ""}`);
    setText(this.#reason, reason);
    setText(this.#since, ageText(inserted, now));
    this.redrive.hidden = problem !== null;
    const text = bytes === null ? "" : payload === "null" && bytes > 4 ? `${bytes.toLocaleString()} bytes` : showHidden(payload);
    if (text === this.#payloadText) return;
    this.#payloadText = text;
    this.#payload.replaceChildren(h("code", { class: "cut", dir: "ltr" }, text));
  }
}
