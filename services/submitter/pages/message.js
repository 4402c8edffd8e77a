/** The progress message: two lines, and a button that shows the rest of a longer one. */

import { setText } from "/assets/text.js";

const message = document.querySelector("#message");
const more = document.querySelector("#more");

/** Show a message. */
export function showMessage(text) {
  if (setText(message, text)) updateButton();
}

function isOpen() {
  return more.ariaExpanded === "true";
}

/** Show the button while the message is cut or open. A button with the focus stays: hiding it would lose the focus. */
function updateButton() {
  const isCut = message.scrollHeight > message.clientHeight + 1;
  more.hidden = !isCut && !isOpen() && document.activeElement !== more;
}

/** Open or close the message. An open one keeps its height, so that later messages do not move the page. */
function toggle() {
  const open = !isOpen();
  more.ariaExpanded = String(open);
  setText(more, open ? "Show less" : "Show all");
  message.style.blockSize = "";
  if (open) message.style.blockSize = `${message.offsetHeight}px`;
  message.tabIndex = open ? 0 : -1; // a long one scrolls
  updateButton();
}

more.addEventListener("click", toggle);
more.addEventListener("blur", updateButton);
new ResizeObserver(updateButton).observe(message);
