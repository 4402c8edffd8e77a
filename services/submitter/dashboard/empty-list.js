/** What the list says instead of rows, and what an operator can do about it. */

import { h } from "/assets/dom.js";
import { copyButton } from "/assets/copy-button.js";

const START = "headway worker --jobs myapp.jobs";

/**
 * Describe why a list is empty.
 *
 * @param {import("./job-filter.js").JobFilter} filter
 * @param {import("./job-counts.js").JobCounts} counts
 * @param {import("./session.js").Session} session
 */
export function emptyList(filter, counts, session) {
  if (counts.hasJobs === false) return noJobs(session);
  if (filter.isNarrowed) return h("div", { class: "empty" }, h("p", {}, "No job matches these filters."));
  if (filter.range === "24h") {
    const text = filter.isByEnd ? "No such job has ended in the last 24 hours." : "No job was submitted in the last 24 hours.";
    return h("div", { class: "empty" }, h("p", {}, text), h("a", { class: "button", href: filter.hrefOfTime({ range: "all" }) }, "Show all times"));
  }
  return h("div", { class: "empty" }, h("p", {}, "No job is in this state now."));
}

function noJobs(session) {
  const key = session.name ? ` -H "Authorization: Bearer $API_KEY"` : "";
  const command = `curl ${location.origin}/jobs${key} -H "Content-Type: application/json" -d '{"kind": "countdown", "payload": {"steps": 30, "delay_s": 1}}'`;
  return h("div", { class: "empty" }, h("p", {}, "No jobs yet. Submit one:"), commandLine(command));
}

/** Describe in one line that jobs wait and no worker runs: it stands in a place that is always there. */
export function noWorker(waiting) {
  const text = waiting === 1 ? "1 job waits, and no worker runs." : `${waiting.toLocaleString()} jobs wait, and no worker runs.`;
  return [`${text} Start one: `, h("code", {}, START), " ", copyButton("command", () => START)];
}

function commandLine(command) {
  return h("div", { class: "command" }, h("pre", { tabindex: 0, role: "group", "aria-label": "Command" }, h("code", {}, command)), copyButton("command", () => command));
}
