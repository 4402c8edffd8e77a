/** The form that submits a job of one kind: its name, and its payload as fields or as JSON. */

import { h, loadStyles } from "/assets/dom.js";
import { showHidden, showHiddenIn } from "/assets/hidden-characters.js";
import { createFields } from "/assets/payload-form.js";
import { newKey, notStartedText } from "/assets/request.js";
import { urlOf } from "/assets/router.js";
import { setText } from "/assets/text.js";

await loadStyles("dialogs.css");

const MAX_NAME = 200;
const NO_PAYLOAD = "{}";

export class RunForm {
  #app;
  #fields = null; // as long as the payload can only be edited as JSON
  #json = h("textarea", { id: "payload-json", rows: 8, class: "code", spellcheck: "false", "aria-describedby": "payload-problem", dir: "ltr" });
  #jsonField = h("div", { class: "field" }, h("label", { for: "payload-json" }, "Payload as JSON"), this.#json);
  #switch = h("button", { type: "button", class: "plain link", click: () => this.#toggle() });
  #name = h("input", { id: "run-name", maxlength: MAX_NAME, autocomplete: "off", dir: "auto" });
  #problem = h("p", { id: "payload-problem", class: "problem", role: "alert" });
  #button = h("button", { class: "button main" }, "Run");
  #usesJson = true;
  #key = newKey(); // the same payload is one job, however often it is sent; another one is another job

  /**
   * @param {object} app
   * @param {{kind: string, schema: ?object}} kind
   */
  constructor(app, { kind, schema }) {
    this.kind = kind;
    this.#app = app;
    this.#json.value = NO_PAYLOAD;
    showHiddenIn(this.#json);
    const name = h("div", { class: "field" }, h("label", { for: "run-name" }, "Name of the job", h("small", {}, " optional")), this.#name);
    const title = h("h2", { id: "run-title" }, "Run ", h("span", { dir: "auto", translate: "no" }, kind));
    const choices = h("div", { class: "choices" }, this.#switch, h("a", { class: "button", href: urlOf("kinds") }, "Close"), this.#button);
    const submit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    this.element = h("form", { class: "card run-form", "aria-labelledby": "run-title", submit }, title, this.#jsonField, name, this.#problem, choices);
    this.#render();
    this.offerFields(schema);
  }

  /** Show fields once a worker has said what the payload is. What was begun as JSON stays until the operator switches. */
  offerFields(schema) {
    if (this.#fields) return;
    this.#fields = createFields(schema);
    if (!this.#fields) return;
    const hadFocus = document.activeElement === this.#json;
    this.#jsonField.before(this.#fields.element);
    this.#usesJson = this.#json.value !== NO_PAYLOAD;
    this.#render();
    if (hadFocus) this.focus();
  }

  focus() {
    if (this.#usesJson) this.#json.focus();
    else this.#fields.focus();
  }

  /** Edit the fields as JSON, or go back to them; what was changed as JSON only is lost then. */
  #toggle() {
    this.#usesJson = !this.#usesJson;
    if (this.#usesJson) this.#json.value = showHidden(this.#fields.toJson());
    this.#render();
    this.focus();
  }

  #render() {
    this.#json.toggleAttribute("autofocus", this.#usesJson);
    if (this.#fields) this.#fields.element.hidden = this.#usesJson;
    for (const input of this.#fields?.element.querySelectorAll("input, select, textarea") ?? []) input.disabled = this.#usesJson;
    this.#jsonField.hidden = !this.#usesJson;
    this.#switch.hidden = !this.#fields;
    setText(this.#switch, this.#usesJson ? "Edit as fields" : "Edit as JSON");
  }

  async #submit() {
    if (this.#button.ariaDisabled === "true") return;
    const payload = this.#usesJson ? this.#json.value.trim() || NO_PAYLOAD : this.#fields.toJson();
    const problem = jsonProblem(payload);
    setText(this.#problem, problem);
    if (problem) return this.#json.focus();
    this.#button.ariaDisabled = "true"; // a disabled button would lose the focus
    try {
      const headers = { "Idempotency-Key": this.#key };
      const { id } = await this.#app.api.submitter("/jobs", { method: "POST", body: this.#body(payload), headers });
      this.#app.router.navigate(urlOf("job", { name: id }));
    } catch (error) {
      setText(this.#problem, notStartedText(error));
    }
    this.#button.ariaDisabled = "false";
  }

  /** Return the submission as JSON text, with the payload as it is: JavaScript would round large numbers. */
  #body(payload) {
    const name = this.#name.value.trim();
    return `{"kind": ${JSON.stringify(this.kind)}, "payload": ${payload}${name ? `, "name": ${JSON.stringify(name)}` : ""}}`;
  }
}

function jsonProblem(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `This is not valid JSON. ${error.message}`;
  }
}
