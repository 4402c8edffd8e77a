/** The choices of each filter, which its window shows. */

import { h } from "/assets/dom.js";
import { ATTEMPTS } from "/assets/filters.js";
import { RANGES } from "/assets/job-filter.js";
import { timeForm } from "/assets/time-form.js";

const MAX_LENGTHS = { kind: 128, owner: 128, tag: 64, error_type: 128 };
const MAX_CHOICES = 12; // of kinds and errors; a text field finds the others
const DAY_MS = 86_400_000;

/**
 * Create the content of a window, by the name of its filter. Each function takes `{app, counts, filter}`: what the views
 * share, the numbers of jobs, and the filter of the list. It may be asynchronous.
 */
export const createChoices = { Time: time, Kind: kind, Owner: owner, Tag: tag, Attempts: attempts, Error: error };

function time({ app, filter }) {
  const choices = Object.entries(RANGES).map(([range, text]) => ({ text, href: filter.hrefOfTime({ range }), isCurrent: filter.range === range }));
  return [choiceList(choices), timeForm(filter.limits, (limits) => app.router.navigate(filter.hrefOfTime(limits)))];
}

function kind(context) {
  const { counts, filter } = context;
  const submitted = ({ hours }) => hours.reduce((sum, hour) => sum + hour.submitted, 0);
  const kinds = new Map((counts.kinds ?? []).map((each) => [each.kind, submitted(each)]));
  return [choiceList(largest(kinds, filter.kind, (value) => filter.href({ kind: value }))), textForm(context, "kind", "Kind")];
}

function owner(context) {
  return [textForm(context, "owner", "Owner")];
}

/** A job must have all tags that are chosen. */
function tag({ app, filter }) {
  const { tags } = filter;
  const choices = tags.map((text) => ({ text, note: "Remove", href: filter.href({ tag: tags.filter((each) => each !== text) }) }));
  const onSubmit = (value) => app.router.navigate(filter.href({ tag: [...new Set([...tags, value])] }));
  return [choiceList(choices), form("tag", tags.length ? "Another tag" : "Tag", "", onSubmit)];
}

function attempts({ filter }) {
  const current = filter.get("attempts_min");
  return [choiceList(Object.entries(ATTEMPTS).map(([count, text]) => ({ text, href: filter.href({ attempts_min: count }), isCurrent: count === current })))];
}

async function error({ app, filter }) {
  const types = await readErrorTypes(app.api, app.api.now() - DAY_MS);
  const current = filter.get("error_type");
  const onSubmit = (type) => app.router.navigate(hrefOfError(filter, type));
  return [choiceList(largest(types, current, (type) => hrefOfError(filter, type))), form("error_type", "Type of the error", current, onSubmit)];
}

/** Return how many failures had each type of error; none if the server does not answer. */
async function readErrorTypes(api, since) {
  const types = new Map();
  try {
    const { groups } = await api.live("/live/failures", { since: new Date(since).toISOString() });
    for (const { error_type: type, count } of groups) if (type) types.set(type, (types.get(type) ?? 0) + count);
  } catch {
    // The text field still finds an error.
  }
  return types;
}

/** Only jobs that have failed, or that will be tried again, have an error. */
function hrefOfError(filter, type) {
  const hasErrors = filter.statuses.includes("failed") || filter.statuses.includes("retrying");
  return filter.href({ error_type: type, ...(hasErrors ? {} : { status: "failed" }) });
}

/** Return the choices with the largest counts. */
function largest(counts, current, hrefOf) {
  const sorted = [...counts].sort(([, one], [, other]) => other - one).slice(0, MAX_CHOICES);
  return sorted.map(([text, count]) => ({ text, note: count.toLocaleString(), href: hrefOf(text), isCurrent: text === current }));
}

/** Create a list of choices; `note` stands at the end of the line. */
function choiceList(choices) {
  if (!choices.length) return "";
  const items = choices.map(({ text, href, note, isCurrent }) =>
    h("li", {}, h("a", { href, "aria-current": isCurrent && "true" }, h("bdi", {}, text), note && h("span", { class: "soft" }, note))));
  return h("ul", { class: "choices-list" }, ...items);
}

function textForm({ app, filter }, name, label) {
  return form(name, label, filter.get(name), (value) => app.router.navigate(filter.href({ [name]: value })));
}

/** Create a form with one text field, which begins with a value. */
function form(name, label, value, onSubmit) {
  const field = h("input", { value, maxlength: MAX_LENGTHS[name], autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const submit = (event) => {
    event.preventDefault();
    onSubmit(field.value.trim());
  };
  return h("form", { class: "panel-form", submit }, h("label", {}, label, field), h("button", { class: "button" }, "Apply"));
}
