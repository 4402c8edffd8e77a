/** What is wrong with the filters of an address that the server rejects: links are cut, and people edit them. */

import { h } from "/assets/dom.js";
import { urlOf } from "/assets/router.js";
import { STATUSES } from "/assets/status-tabs.js";

const isTime = (text) => /T.*(Z|[+-]\d\d:\d\d)$/i.test(text) && !Number.isNaN(Date.parse(text));
const TIME = { name: "Time", accepts: isTime, rule: "a time such as 2026-01-31T09:30:00Z" };

/** What is accepted, by the parameter. What else the server rejects is one of the last four. */
const PARAMETERS = {
  status: { name: "Status", accepts: (text) => STATUSES.includes(text), rule: `one of ${STATUSES.slice(0, -1).join(", ")} and ${STATUSES.at(-1)}` },
  since: TIME,
  until: TIME,
  attempts_min: { name: "Attempts", accepts: (text) => /^[1-9]\d{0,8}$/.test(text), rule: "a whole number above 0" },
  kind: { name: "Kind", rule: "the name of a kind" },
  owner: { name: "Owner", rule: "the name of an owner" },
  tag: { name: "Tag", rule: "a tag" },
  error_type: { name: "Error", rule: "the type of an error" },
};

/**
 * Return in words why the server rejects a filter.
 *
 * @param {import("./job-filter.js").JobFilter} filter
 * @param {string} message of the server, which names the parameter
 */
export function filterProblem(filter, message) {
  const { fields } = filter;
  for (const [parameter, { name, accepts, rule }] of Object.entries(PARAMETERS)) {
    const isAccepted = accepts ?? (() => !new RegExp(`\\b${parameter}\\b`).test(message));
    const wrong = [fields[parameter] ?? []].flat().find((value) => !isAccepted(value));
    if (wrong !== undefined) return `The filter ${name} cannot be used: “${wrong}” is not ${rule}.`;
  }
  return `These filters cannot be used. ${message}`;
}

/** Create what stands in place of the rows of a list whose filter the server rejects. */
export function rejectedList(filter, message) {
  const problem = h("p", { class: "problem", role: "alert" }, filterProblem(filter, message));
  return h("div", { class: "empty" }, problem, h("a", { class: "button", href: urlOf("jobs") }, "Clear the filters"));
}
