/** Modal dialogs, which the views load when they ask something. */

import { h, loadStyles } from "/assets/dom.js";

await loadStyles("dialogs.css");

let dialogs = 0; // that have been opened, for their ids

/**
 * Ask in a modal dialog, and return the value of the button that was chosen, "" if the dialog was closed.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {(Node | string)[]} options.content
 * @param {{value: string, text: string, isMain?: boolean, isDanger?: boolean}[]} options.buttons the main one has the focus,
 *   unless the content has `autofocus`
 * @param {(value: string) => Promise<boolean> | boolean} [options.onSubmit] called with the value of a button before the
 *   dialog closes; false keeps it open, and an error is shown in it
 */
export function ask({ title, content, buttons, onSubmit = () => true }) {
  const id = `dialog-${++dialogs}`;
  const choices = buttons.map(({ value, text, isMain, isDanger }) => {
    const options = { value, class: `button${isMain ? " main" : ""}${isDanger ? " danger" : ""}`, autofocus: isMain };
    if (value) return h("button", options, text);
    return h("button", { type: "button", ...options, click: () => isBusy || dialog.close() }, text); // not by Enter in a field
  });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", { method: "dialog" }, h("h2", { id }, title), ...content, problem, h("div", { class: "choices" }, ...choices));
  const dialog = h("dialog", { "aria-labelledby": id }, form);
  let isBusy = false;
  let pending = null; // the last call of onSubmit
  let answer = "";
  const submit = async (value) => {
    isBusy = true;
    problem.textContent = "";
    choices.forEach((button) => button.setAttribute("aria-disabled", "true")); // a disabled one would lose the focus
    try {
      if (!(await onSubmit(value))) return;
      answer = value;
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      choices.forEach((button) => button.removeAttribute("aria-disabled"));
      isBusy = false;
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!isBusy) pending = submit(event.submitter?.value ?? "");
  });
  dialog.addEventListener("cancel", (event) => isBusy && event.preventDefault());
  // Browsers close a dialog at the second request in a row, whatever the page wants.
  return openDialog(dialog).then(() => pending).then(() => answer);
}

/** Open a modal dialog; resolves when it has closed. The focus returns to where it was, or to the view. */
export function openDialog(dialog) {
  const opener = document.activeElement;
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (opener?.isConnected && opener !== document.body) opener.focus();
      else document.querySelector("main")?.focus({ preventScroll: true });
      resolve();
    });
  });
}
