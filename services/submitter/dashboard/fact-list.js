/** A titled list of facts about a job. A fact that stays keeps its element, and with it a selection or the focus. */

import { arrange, h } from "/assets/dom.js";
import { TimeText } from "/assets/time-text.js";
import { setText } from "/assets/text.js";

export class FactList {
  #list = h("dl");
  #shown = new Map(); // by label: what was shown last
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
    arrange(this.#list, entries.map(([label]) => label), createFact);
    entries.forEach(([label, value], index) => this.#renderValue(label, value, this.#list.children[index].lastChild, now));
  }

  #renderValue(label, value, element, now) {
    if (typeof value === "string") return setText(element, value);
    let shown = this.#shown.get(label);
    if (shown?.element !== element || shown.key !== value.key) {
      const time = value.time ? new TimeText() : null;
      shown = { element, key: value.key, time };
      this.#shown.set(label, shown);
      element.replaceChildren(time ? time.element : value.create());
    }
    shown.time?.render(value.time, now);
  }
}

function createFact(label) {
  return h("div", {}, h("dt", {}, label), h("dd", { dir: "auto" }));
}
