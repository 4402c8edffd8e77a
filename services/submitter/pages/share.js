/** The button that copies a watch-only link to the job. */

import { copyText } from "/assets/clipboard.js";
import { postJson } from "/assets/request.js";
import { setText } from "/assets/text.js";

const button = document.querySelector("#share");
const notice = document.querySelector("#shared");
const field = document.querySelector("#link");

/** Make the button share a job. It keeps the focus while it is busy, which a disabled button would lose. */
export function initSharing({ id, token }) {
  button.addEventListener("click", async () => {
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true";
    field.hidden = true;
    setText(notice, "");
    setText(notice, await share(id, token));
    button.ariaDisabled = "false";
  });
}

/** Create a watch-only link and copy it; return the notice for the user. */
async function share(id, token) {
  try {
    const { links } = await postJson(`/jobs/${id}/token`, { scope: "watch" }, { Authorization: `Bearer ${token}` });
    return await copy(links.page);
  } catch (error) {
    return `The link could not be created. ${error.message}`;
  }
}

/** Copy the link to the clipboard, or else show it in a field; return the notice for the user. */
async function copy(link) {
  if (await copyText(link)) return "Copied. Anyone with the link can watch, but not cancel.";
  field.value = link;
  field.hidden = false;
  field.select();
  return "Copy this link. Anyone with it can watch, but not cancel.";
}
