/** The button that copies a watch-only link to the job. */

const button = document.querySelector("#share");
const notice = document.querySelector("#shared");
const field = document.querySelector("#link");

/** Make the button share a job. */
export function initSharing({ id, token }) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    field.hidden = true;
    notice.textContent = "";
    try {
      notice.textContent = await copy(await createWatchOnlyLink(id, token));
    } catch (error) {
      notice.textContent = `The link could not be created. ${error.message}`;
    }
    button.disabled = false;
  });
}

async function createWatchOnlyLink(id, token) {
  const response = await fetch(`/jobs/${id}/token`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ scope: "watch" }),
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail);
  return body.links.page;
}

/** Copy the link to the clipboard, or else show it in a field; return the notice for the user. */
async function copy(link) {
  try {
    await navigator.clipboard.writeText(link);
    return "Copied. It can watch, not cancel.";
  } catch {
    field.value = link;
    field.hidden = false;
    field.select();
    return "Copy this link: it can watch, not cancel.";
  }
}
