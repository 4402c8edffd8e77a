/** The dialog that submits a job again as a new one, with its payload or another one. */

import { ApiError } from "/assets/api.js";
import { readDetails } from "/assets/details.js";
import { h, loadStyles, setAttribute } from "/assets/dom.js";
import { showHidden, showHiddenIn } from "/assets/hidden-characters.js";
import { isReserved, reasonText, rerunJob } from "/assets/job-requests.js";
import { parseExactly } from "/assets/json.js";
import { ask } from "/assets/dialogs.js";
import { newKey } from "/assets/request.js";

const MAX_PAYLOAD_BYTES = 32 * 1024;
const NOT_KEPT = "Its payload was not kept, so enter one: any JSON, such as {} or null.";

/**
 * Ask for the payload, and submit the job; return the receipt, or null if the operator has changed their mind.
 *
 * The dialog stays open while the payload or the server's answer is a problem. Repeating the request submits no second job.
 */
export async function askForPayload(api, job, title) {
  const [kept] = await Promise.all([readKept(api, job.id), loadStyles("actions.css")]);
  const field = payloadField(job, kept.text);
  const key = newKey();
  let receipt = null;
  const onSubmit = async () => {
    try {
      const payload = field.value === kept.text ? undefined : payloadText(field);
      receipt = await rerunJob(api, job, key, payload);
    } catch (error) {
      setAttribute(field, "aria-invalid", "true");
      field.focus();
      throw error instanceof ApiError ? new Error(reasonText("resubmit", error)) : error;
    }
    return true;
  };
  const content = [
    h("p", {}, "It becomes a new job with the same kind, name and limits. The old one stays as it is."),
    kept.problem && h("p", { class: "payload-missing" }, kept.problem),
    h("label", { for: "payload" }, "Payload (JSON)"),
    field,
  ].filter(Boolean);
  const buttons = [
    { value: "", text: "Not now" },
    { value: "run", text: "Run as a new job", isMain: true },
  ];
  await ask({ title: `Run ${title} again`, content, buttons, onSubmit });
  return receipt;
}

/** Return the text of the payload that was kept, or why it cannot be shown. */
async function readKept(api, id) {
  try {
    const { kept, payload } = await readDetails(api, id);
    return kept ? { text: showHidden(payload) } : { problem: NOT_KEPT };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { problem: `Its payload cannot be shown. ${error.message}` };
  }
}

function payloadField({ kind }, text) {
  const isFixed = isReserved(kind);
  const attributes = { id: "payload", rows: 10, spellcheck: "false", translate: "no", dir: "ltr", readonly: isFixed };
  const field = h("textarea", { class: "code", ...attributes, autofocus: text === undefined });
  field.value = text ?? "";
  showHiddenIn(field);
  field.setSelectionRange(0, 0);
  return field;
}

/**
 * Return the payload as JSON text without white space. If it is not JSON, the cursor moves to the fault.
 *
 * @throws {Error} with a message for the operator
 */
function payloadText(field) {
  let text;
  try {
    const { value, stringify } = parseExactly(field.value);
    text = stringify(value);
  } catch ({ message }) {
    const position = /position (\d+)/.exec(message)?.[1] ?? field.value.length;
    field.setSelectionRange(position, position);
    throw new Error(field.value.trim() ? `This is not JSON. ${message}` : NOT_KEPT.replace(/^.*so e/, "E"));
  }
  const size = new TextEncoder().encode(text).length;
  if (size > MAX_PAYLOAD_BYTES) throw new Error(`The payload has ${Math.ceil(size / 1024)} KiB. At most 32 KiB are allowed.`);
  return text;
}
