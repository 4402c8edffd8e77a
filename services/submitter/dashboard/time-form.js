/** A form for two times in the reader's zone. */

import { h } from "/assets/dom.js";
import { timeZone } from "/assets/job-filter.js";

/**
 * Create the form.
 *
 * @param {{since: ?string, until: ?string}} limits the times that it begins with
 * @param {(limits: {since: ?string, until: ?string}) => void} onSubmit called with the times that were entered
 */
export function timeForm({ since, until }, onSubmit) {
  const start = h("input", { type: "datetime-local", value: localText(since) });
  const end = h("input", { type: "datetime-local", value: localText(until) });
  const check = () => end.setCustomValidity(start.value && end.value && start.value >= end.value ? "This time must be after the first one." : "");
  const submit = (event) => {
    event.preventDefault();
    onSubmit({ since: timeOf(start.value), until: timeOf(end.value) });
  };
  const fields = [h("label", {}, "From", start), h("label", {}, "Until", end)];
  return h("form", { class: "panel-form", submit, input: check }, ...fields, h("p", { class: "soft" }, `Times are in ${timeZone}.`), h("button", { class: "button" }, "Apply"));
}

/** Return a time as the field has it, in the reader's zone. */
function localText(time) {
  const date = new Date(time ?? NaN);
  if (Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function timeOf(text) {
  return text ? new Date(text).toISOString() : null;
}
