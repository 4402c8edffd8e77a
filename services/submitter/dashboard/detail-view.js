/** The view of one job: how far it is, its attempts to scale, why it failed, what it logged, and what it was given. */

import { JOB_ID } from "/assets/details.js";
import { h, loadStyles } from "/assets/dom.js";
import { JobPage } from "/assets/job-page.js";
import { urlOf } from "/assets/router.js";

await Promise.all(["empty-list.css", "detail-view.css", "progress-card.css", "json-tree.css"].map(loadStyles)); // so that nothing moves later

export default class DetailView {
  element = h("div", { class: "detail-view" });
  #app;
  #id = null;
  #page = null;

  constructor(app) {
    this.#app = app;
  }

  /** Show the job that the URL names; a hash such as `line-120` leads to a line of its log. */
  update({ name, hash }) {
    const id = name.toLowerCase();
    if (id !== this.#id) this.#show(id);
    this.#page?.showLine(hash);
  }

  close() {
    this.#page?.close();
  }

  #show(id) {
    this.close();
    this.#id = id;
    this.#page = JOB_ID.test(id) ? new JobPage(this.#app, id) : null;
    if (!this.#page) document.title = "No such job · Headway";
    this.element.replaceChildren(this.#page?.element ?? noJob());
  }
}

/** Create what is shown for an id that no job has. */
function noJob() {
  const text = h("p", {}, "This address does not contain the id of a job. An id has 36 characters, such as ", h("code", {}, "9ac3f7d0-1c5b-4a51-8f0e-2b6f0e6c51e2"), ".");
  return h("div", { class: "empty" }, h("h1", {}, "No such job"), text, h("p", {}, h("a", { href: urlOf("jobs"), class: "button" }, "All jobs")));
}
