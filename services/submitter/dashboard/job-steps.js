/** The steps of the current attempt, with their durations. */

import { arrange, h, setAttribute } from "/assets/dom.js";
import { preciseDurationText } from "/assets/format.js";
import { setText } from "/assets/text.js";

const MAX_STEPS = 100; // that a job keeps

export class JobSteps {
  #title = h("h2", { id: "steps-title" });
  #note = h("p", { class: "soft", hidden: true }, `Only the newest ${MAX_STEPS} are kept.`);
  #list = h("ol", { class: "steps" });
  element = h("section", { class: "card", "aria-labelledby": "steps-title" }, this.#title, this.#note, this.#list);

  /** Show the steps of a job as of now, by the server's clock in ms. A step that has not ended runs while the job does. */
  render({ attempt, status, finished_at: finished, updated_at: updated }, steps, now) {
    this.element.hidden = !steps.length;
    this.#note.hidden = steps.length < MAX_STEPS;
    setText(this.#title, attempt > 1 ? `Steps of attempt ${attempt}` : "Steps");
    const end = status === "running" ? now : Date.parse(finished ?? updated);
    arrange(this.#list, steps.map((step, index) => `${index} ${step.started_at}`), createStep);
    steps.forEach(({ name, started_at: started, ended_at: ended }, index) => {
      const item = this.#list.children[index];
      const [label, state, span] = item.children;
      setAttribute(item, "data-open", !ended);
      setText(label, name);
      setText(state, ended ? "" : status === "running" ? "running" : "not completed");
      setText(span, preciseDurationText((ended ? Date.parse(ended) : end) - Date.parse(started)));
    });
  }
}

function createStep() {
  return h("li", {}, h("bdi"), h("span", { class: "soft" }), h("span", { class: "number soft" }));
}
