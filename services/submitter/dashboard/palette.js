/** The search: a dialog with a field and the list of what it finds (the pattern "combobox" of the ARIA guide). */

import { h, setAttribute } from "/assets/dom.js";
import { openDialog } from "/assets/dialogs.js";
import { find } from "/assets/palette-items.js";
import { setText } from "/assets/text.js";

const RECENT_JOBS = 200; // the most that a page has
const STEPS = { ArrowDown: 1, ArrowUp: -1 };

/** Open the dialog with what was typed already, and show what is chosen in it. */
export async function open({ api, router }, typed) {
  const href = await new Palette(api, typed).choose();
  if (href) router.navigate(href);
}

class Palette {
  #api;
  #known = { jobs: [], kinds: [] };
  #options = []; // elements
  #active = 0; // the index of the option that Enter chooses
  #hasMoved = false; // whether the operator has gone to this option with the arrow keys
  #field = h("input", {
    type: "text",
    role: "combobox",
    "aria-label": "Find an id, a name, a kind, a tag or an owner",
    "aria-expanded": "true",
    "aria-controls": "palette-list",
    "aria-autocomplete": "list",
    placeholder: "Id, name, kind, tag or owner",
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    input: () => this.#onInput(),
    keydown: (event) => this.#onKey(event),
  });
  #list = h("div", { id: "palette-list", role: "listbox", "aria-label": "Found", tabindex: -1 });
  #status = h("p", { class: "soft", role: "status" });
  #dialog = h("dialog", { class: "palette", "aria-label": "Find", click: (event) => this.#onClick(event) }, this.#field, this.#list, this.#status);

  constructor(api, typed) {
    this.#api = api;
    this.#field.value = typed;
    this.#render();
    this.#load();
  }

  /** Return the URL that was chosen, "" if the dialog was closed. */
  async choose() {
    await openDialog(this.#dialog);
    return this.#dialog.returnValue;
  }

  /** Load what can be found by a part of its name. What cannot be loaded is not found. */
  async #load() {
    const read = async (path, query, name) => {
      try {
        this.#known[name] = (await this.#api.live(path, query))[name];
        this.#render();
      } catch (error) {
        setText(this.#status, error.message);
      }
    };
    await Promise.all([read("/live/jobs", { limit: RECENT_JOBS }, "jobs"), read("/live/kinds", {}, "kinds")]);
  }

  #render() {
    const chosen = this.#hasMoved ? this.#options[this.#active]?.dataset.href : null;
    const groups = find(this.#field.value, this.#known);
    this.#options = [];
    this.#list.replaceChildren(...groups.map((group) => this.#group(group)));
    const typed = this.#field.value.trim();
    const kept = this.#options.findIndex(({ dataset }) => dataset.href === chosen);
    this.#activate(Math.max(0, kept));
    setAttribute(this.#field, "aria-expanded", this.#options.length ? "true" : "false");
    setText(this.#status, this.#options.length ? "" : `Nothing is found for “${typed}” among the recent jobs. A whole id always opens its job.`);
  }

  #group({ title, items }) {
    const id = `palette-${title}`;
    const options = items.map(({ text, detail, href }) => {
      const parts = [h("bdi", {}, text), detail && h("small", {}, detail)];
      const option = h("div", { id: `palette-${this.#options.length}`, role: "option", "data-href": href, "aria-selected": "false" }, ...parts);
      this.#options.push(option);
      return option;
    });
    return h("div", { role: "group", "aria-labelledby": id }, h("div", { id, role: "presentation", class: "title" }, title), ...options);
  }

  #activate(index) {
    this.#options[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = index;
    const option = this.#options[index];
    setAttribute(this.#field, "aria-activedescendant", option?.id);
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
  }

  #onInput() {
    this.#hasMoved = false;
    this.#render();
  }

  #onKey(event) {
    if (event.isComposing || !this.#options.length) return;
    if (STEPS[event.key]) this.#move(STEPS[event.key]);
    else if (event.key === "Enter") this.#close(this.#options[this.#active]);
    else return;
    event.preventDefault();
  }

  #move(step) {
    const { length } = this.#options;
    this.#hasMoved = true;
    this.#activate((this.#active + step + length) % length);
  }

  #onClick({ target }) {
    if (target === this.#dialog) this.#dialog.close(""); // its backdrop
    const option = target.closest("[role=option]");
    if (option) this.#close(option);
  }

  #close(option) {
    this.#dialog.close(option.dataset.href);
  }
}
