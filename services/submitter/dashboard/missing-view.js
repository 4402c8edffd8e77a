/** What an address of no view shows. */

import { h, loadStyles } from "/assets/dom.js";
import { urlOf } from "/assets/router.js";

export default class MissingView {
  element;

  constructor() {
    loadStyles("empty-list.css");
    document.title = "No such page · Headway";
    const link = h("a", { href: urlOf("jobs"), class: "button" }, "All jobs");
    this.element = h("div", { class: "empty" }, h("h1", {}, "No such page"), h("p", {}, "The dashboard has no page at this address."), link);
  }

  update() {}

  close() {}
}
