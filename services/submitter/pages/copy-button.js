/** A button that copies a text, and says whether it has. */

import { NOT_COPIED, copyText } from "/assets/clipboard.js";
import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

const NOTICE_MS = 3000;

/**
 * Create the button.
 *
 * @param {string} what the name of what it copies, such as "error"; the buttons of a page need different names
 * @param {() => string} text called when the button is clicked
 */
export function copyButton(what, text) {
  const label = h("span", {}, "Copy");
  const notice = h("span", { class: "visually-hidden", role: "status" });
  let timer;
  const copy = async () => {
    const isCopied = await copyText(text());
    setText(label, isCopied ? "Copied" : "Not copied");
    setText(notice, isCopied ? `Copied the ${what}.` : `${NOT_COPIED} Select the text instead.`);
    clearTimeout(timer);
    timer = setTimeout(() => {
      setText(label, "Copy");
      setText(notice, "");
    }, NOTICE_MS);
  };
  const button = h("button", { type: "button", class: "plain link", click: copy }, label, h("span", { class: "visually-hidden" }, ` ${what}`));
  return h("span", { class: "copy" }, button, notice);
}
