/** The button that copies a link for sharing, whose key may watch the job and no more. */

const button = document.querySelector("#share");
const told = document.querySelector("#shared");
const field = document.querySelector("#link");

/** Offer to share the job that a token opens. */
export function offer({ id, token }) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    field.hidden = true;
    told.textContent = "";
    try {
      told.textContent = await copy(await watchOnly(id, token));
    } catch (error) {
      told.textContent = `There is no link. ${error.message}`;
    }
    button.disabled = false;
  });
}

async function watchOnly(id, token) {
  const response = await fetch(`/jobs/${id}/token`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ scope: "watch" }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  return answer.links.page;
}

/** Put the link on the clipboard, or else into a field to copy it from by hand. */
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
