/** What the dashboard tells the operator: notices at the bottom of the window, and dialogs that ask. */

import { h } from "/assets/dom.js";

const NOTICE_MS = 8000;

export class Notices {
  element = h("div", { class: "notices", role: "status" });

  /**
   * Show a notice for some seconds; an error stays until it is dismissed.
   *
   * @param {string} text
   * @param {{isError?: boolean, link?: {href: string, text: string}}} [options]
   */
  show(text, { isError = false, link } = {}) {
    const notice = h("p", { class: isError ? "notice error" : "notice" }, text);
    if (link) notice.append(" ", h("a", { href: link.href }, link.text));
    const dismiss = () => notice.remove();
    notice.append(h("button", { type: "button", class: "plain", "aria-label": "Dismiss", click: dismiss }, "×"));
    this.element.append(notice);
    if (!isError) setTimeout(dismiss, NOTICE_MS);
  }

  /** Show why something failed. */
  showError(what, error) {
    this.show(`${what} ${error.message}`, { isError: true });
  }
}

/**
 * Ask in a modal dialog, and return the value of the button that was chosen, "" if the dialog was closed.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {(Node | string)[]} options.content
 * @param {{value: string, text: string, isMain?: boolean}[]} options.buttons the last one is the main one by default
 * @param {(value: string) => Promise<boolean> | boolean} [options.onSubmit] called with the value of a button before the
 *   dialog closes; false keeps it open
 */
export function ask({ title, content, buttons, onSubmit = () => true }) {
  const choices = buttons.map(({ value, text, isMain }) => h("button", { value, class: isMain ? "button main" : "button" }, text));
  const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), ...content, h("div", { class: "choices" }, ...choices));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  const opener = document.activeElement;
  document.body.append(dialog);
  return new Promise((resolve) => {
    let isBusy = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (isBusy) return;
      isBusy = true;
      const { value } = event.submitter ?? {};
      if (!value || (await onSubmit(value))) dialog.close(value ?? "");
      isBusy = false;
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (opener?.isConnected) opener.focus();
      resolve(dialog.returnValue);
    });
    dialog.showModal();
  });
}
