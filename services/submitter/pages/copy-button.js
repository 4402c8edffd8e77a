/** A button that copies a text, and says whether it has. */

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
    const isCopied = await write(text());
    setText(label, isCopied ? "Copied" : "Not copied");
    setText(notice, isCopied ? `Copied the ${what}.` : "The browser does not allow copying. Select the text instead.");
    clearTimeout(timer);
    timer = setTimeout(() => {
      setText(label, "Copy");
      setText(notice, "");
    }, NOTICE_MS);
  };
  const button = h("button", { type: "button", class: "plain link", click: copy }, label, h("span", { class: "visually-hidden" }, ` ${what}`));
  return h("span", { class: "copy" }, button, notice);
}

/** Copy a text; return whether the browser allows it. */
async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // not a secure context, or no permission
  }
}
