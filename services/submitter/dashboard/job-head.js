/** The head of a job's view: where it is, its name, its status as a chip, and what an operator can do with it. */

import { h, setAttribute } from "/assets/dom.js";
import { nameText, shortId, statusText } from "/assets/format.js";
import { statusIcon } from "/assets/icons.js";
import { JobActionBar } from "/assets/job-action-bar.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

export class JobHead {
  #snapshot = null;
  #kind = h("li", { translate: "no" });
  #name = h("bdi");
  #heading = h("h1", { tabindex: -1 }, this.#name);
  #icon = h("span", { class: "chip-icon" });
  #status = h("span");
  #chip = h("span", { class: "status tag", role: "status", hidden: true }, this.#icon, this.#status);
  #bar = null; // without the right to act
  element;

  /** @param {() => void} onAction called after an action */
  constructor(app, id, onAction) {
    if (app.session.canOperate) this.#bar = new JobActionBar(app, { onAction, onFocusLost: () => this.#heading.focus() });
    const short = shortId(id);
    const crumbs = h("ol", {}, h("li", {}, h("a", { href: urlOf("jobs") }, "Jobs")), this.#kind, h("li", { "aria-current": "page" }, h("code", {}, short)));
    setText(this.#name, `Job ${short}`);
    this.element = h(
      "header",
      { class: "job-head" },
      h("nav", { class: "crumbs", "aria-label": "Path" }, crumbs),
      h("div", { class: "job-title" }, this.#heading, this.#chip, this.#bar?.element),
    );
  }

  /** Show a job; the tone is its status, or `lost` or `stalled`. */
  render(snapshot, tone) {
    const { kind, name } = snapshot;
    if (kind !== this.#snapshot?.kind) this.#kind.replaceChildren(h("a", { href: urlOf("jobs", { query: { kind } }) }, h("bdi", {}, kind)));
    this.#snapshot = snapshot;
    setText(this.#name, nameText(snapshot));
    setAttribute(this.#name, "translate", name ? null : "no");
    this.#chip.hidden = false;
    setText(this.#status, statusText(snapshot));
    if (this.#chip.dataset.tone !== tone) this.#icon.replaceChildren(statusIcon(tone));
    setAttribute(this.#chip, "data-tone", tone);
    this.#bar?.render(snapshot);
  }

  close() {
    this.#bar?.close();
  }
}
