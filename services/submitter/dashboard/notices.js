/** Notices at the bottom of the window: what has been done, and what has failed. */

import { h } from "/assets/dom.js";

const NOTICE_MS = 8000;
const MAX_NOTICES = 4;

export class Notices {
  #texts = h("div", { role: "status" });
  #errors = h("div", { role: "alert" });
  element = h("div", { class: "notices" }, this.#errors, this.#texts);

  /**
   * Show a notice for some seconds, longer while it is pointed at; an error stays until it is dismissed.
   *
   * @param {string} text
   * @param {{isError?: boolean, link?: {href: string, text: string}}} [options]
   */
  show(text, { isError = false, link } = {}) {
    const region = isError ? this.#errors : this.#texts;
    for (const other of region.children) if (other.dataset.text === text) other.remove(); // it is announced again
    const notice = h("p", { class: isError ? "notice error" : "notice", "data-text": text }, h("span", {}, text));
    if (link) notice.append(h("a", { href: link.href }, link.text));
    notice.append(h("button", { type: "button", class: "plain", "aria-label": "Dismiss", click: () => dismiss(notice) }, "×"));
    region.append(notice);
    while (region.children.length > MAX_NOTICES) region.firstChild.remove();
    if (!isError) dismissLater(notice);
  }

  /** Show why something failed. */
  showError(what, error) {
    this.show(`${what} ${error.message}`, { isError: true });
  }
}

/** Remove a notice; the focus that it has goes to the view. */
function dismiss(notice) {
  const hasFocus = notice.contains(document.activeElement);
  notice.remove();
  if (hasFocus) document.querySelector("main")?.focus({ preventScroll: true });
}

function dismissLater(notice) {
  setTimeout(() => (notice.matches(":hover, :focus-within") ? dismissLater(notice) : dismiss(notice)), NOTICE_MS);
}
