/** A titled list of facts about a job. A fact that stays keeps its element, and with it a selection or the focus. */

import { arrange, h } from "/assets/dom.js";
import { TimeText } from "/assets/time-text.js";
import { setText } from "/assets/text.js";

export class FactList {
  #list = h("dl");
  element;

  constructor(title) {
    this.element = h("section", {}, h("h2", {}, title), this.#list);
  }

  /**
   * Show facts; those without a value are left out.
   *
   * @param {Record<string, ?(string | {time: string} | {key: string, create: () => Node})>} facts by label: a text, a time,
   *   or a key and what creates the content, which is called when the key is another one
   * @param {number} now the server's time in ms
   */
  render(facts, now) {
    const entries = Object.entries(facts).filter(([, value]) => value);
    this.element.hidden = !entries.length;
    const shown = arrange(this.#list, entries.map(([label]) => label), (label) => new Fact(label));
    for (const [label, value] of entries) shown.get(label).render(value, now);
  }
}

class Fact {
  #value = h("dd", { dir: "auto" });
  #key = null;
  #time = null;

  constructor(label) {
    this.element = h("div", {}, h("dt", {}, label), this.#value);
  }

  render(value, now) {
    if (typeof value === "string") return setText(this.#value, value);
    if (value.time && !this.#time) this.#value.replaceChildren((this.#time = new TimeText()).element);
    else if (value.create && value.key !== this.#key) this.#value.replaceChildren(value.create());
    this.#key = value.key;
    this.#time?.render(value.time, now);
  }
}
