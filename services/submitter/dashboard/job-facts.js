/** The facts about a job that stand beside its story: times, labels, where it ran, what it was given and returned. */

import { copyButton } from "/assets/copy-button.js";
import { arrange, h } from "/assets/dom.js";
import { FactList } from "/assets/fact-list.js";
import { preciseDurationText, resultText } from "/assets/format.js";
import { jsonTree } from "/assets/json-tree.js";
import { urlOf } from "/assets/router.js";
import { waitingSince } from "/assets/row-texts.js";
import { setText } from "/assets/text.js";
import { TimeText } from "/assets/time-text.js";
import { attemptsOf, isContinued } from "/assets/timeline-scale.js";
import { traceUrl } from "/assets/trace-url.js";

const ENDS = { succeeded: "Succeeded", failed: "Failed", cancelled: "Cancelled" };
const ACTIONS = { cancel: "Cancelled", redrive: "Run again", rerun: "Submitted as a rerun", erase: "Erased" };
const ANYONE = "anyone"; // where no API key is needed
const NOTHING = "null"; // as JSON

export class JobFacts {
  #times = new FactList("Times");
  #labels = new FactList("Labels");
  #place = new FactList("Ran on");
  #actions = new Actions();
  #snapshot = null;
  #resultText = "";
  #result = new Value("Result");
  #payload = new Value("Payload");
  #checkpoint = new Value("Checkpoint");
  #problem = h("p", { class: "problem" });
  #retry = h("button", { type: "button", class: "plain link" }, "Try again");
  #failure = h("section", { hidden: true }, h("h2", {}, "Details"), this.#problem, this.#retry);
  element = h(
    "aside",
    { class: "job-facts", "aria-label": "Facts" },
    [this.#times, this.#labels, this.#place, this.#result, this.#payload, this.#checkpoint, this.#actions].map(({ element }) => element),
    this.#failure,
  );

  /** @param {() => void} onRetry called when the user wants the details to be read again */
  constructor(onRetry) {
    this.#retry.addEventListener("click", onRetry);
  }

  /** Show what is known of a job; see `JobWatch`. */
  render({ snapshot, details, detailsProblem, worker, now }) {
    this.#times.render(times(snapshot, now), now);
    this.#labels.render(labels(snapshot, details), now);
    this.#place.render(details ? places(details, worker) : {}, now);
    this.#actions.render(details?.actions ?? [], now); // absent from older notifiers
    this.#renderValues(snapshot, details);
    this.#failure.hidden = !detailsProblem;
    setText(this.#problem, detailsProblem && `The details could not be read. ${detailsProblem.message}`);
  }

  #renderValues(snapshot, details) {
    const isErased = Boolean(details?.actions?.some(({ action }) => action === "erase"));
    if (snapshot !== this.#snapshot) this.#resultText = snapshot.status === "succeeded" ? resultText(snapshot) : "";
    this.#snapshot = snapshot;
    this.#result.render(this.#resultText, snapshot.status === "succeeded" ? whyNoResult(isErased) : "");
    if (!details) return;
    this.#payload.render(details.kept && details.payload, whyNotKept(snapshot, isErased));
    this.#checkpoint.render(details.kept && details.checkpoint !== NOTHING && details.checkpoint);
  }
}

/** A JSON value with a title, or why it is missing. */
class Value {
  #title;
  #content = h("div");
  #shown;
  element;

  constructor(title) {
    this.#title = title;
    this.element = h("section", { hidden: true }, h("h2", {}, title), this.#content);
  }

  /** Show a JSON text; without one, the reason, and without that, nothing. */
  render(text, reason = "") {
    const shown = text || reason;
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.element.hidden = !shown;
    this.#content.replaceChildren(text ? jsonTree(text, { label: this.#title }) : h("p", { class: "soft" }, reason));
  }
}

/** Who has acted on the job, the newest first. */
class Actions {
  #list = h("ul", { class: "actions-taken" });
  element = h("section", { hidden: true }, h("h2", {}, "Who acted"), this.#list);

  render(actions, now) {
    const sorted = [...actions].sort((one, other) => Date.parse(other.at) - Date.parse(one.at));
    const byKey = new Map(sorted.map((action) => [JSON.stringify(action), action]));
    this.element.hidden = !actions.length;
    const items = arrange(this.#list, byKey.keys(), (key) => createAction(byKey.get(key)));
    for (const [key, { at }] of byKey) items.get(key).time.render(at, now);
  }
}

function createAction({ action, by }) {
  const time = new TimeText();
  const name = by && by !== ANYONE ? [" by ", h("bdi", {}, by)] : " without an API key";
  return { time, element: h("li", {}, h("div", {}, ACTIONS[action] ?? action, name), time.element) };
}

function times(snapshot, now) {
  const { status, submitted_at: submitted, redriven_at: redriven, due_at: due, updated_at: updated, finished_at: finished, expires_at: expires } = snapshot;
  const attempts = attemptsOf(snapshot, null).filter(({ started_at: started }) => !(started < redriven));
  const since = waitingSince(snapshot);
  const first = attempts.find(({ attempt, started_at: started }) => attempt === 1 && started);
  const hasWaited = since && first && !(attempts.length === 1 && isContinued(snapshot)); // otherwise it has run, too
  const waited = hasWaited ? Date.parse(first.started_at) - Date.parse(since) : null;
  return {
    Submitted: time(submitted),
    "Run again": time(redriven),
    Waited: waited === null ? null : preciseDurationText(waited),
    Started: time(first?.started_at ?? snapshot.started_at),
    [status === "retrying" ? "Next attempt" : "Starts"]: finished || Date.parse(due) <= now ? null : time(due),
    "Last report": finished || !snapshot.started_at ? null : time(updated),
    [ENDS[status] ?? "Ended"]: time(finished),
    Expires: time(expires),
  };
}

function time(value) {
  return value ? { time: value } : null;
}

function labels({ id, kind, generation }, details) {
  const { owner, tags = [] } = details?.labels ?? {};
  return {
    Kind: { key: kind, create: () => filterLink({ kind }, kind) },
    Owner: owner ? { key: owner, create: () => filterLink({ owner }, owner) } : null,
    Tags: tags.length ? { key: JSON.stringify(tags), create: () => h("ul", { class: "tags" }, tags.map((tag) => h("li", {}, filterLink({ tag }, tag)))) } : null,
    "Run again": generation ? `${generation} ${generation === 1 ? "time" : "times"}` : null,
    Id: { key: id, create: () => copied("id", id) },
  };
}

function filterLink(query, text) {
  return h("a", { href: urlOf("jobs", { query: { ...query, range: "all" } }), translate: "no" }, h("bdi", {}, text));
}

function copied(name, text, url = null) {
  const code = h("code", { translate: "no" }, text);
  const shown = url ? h("a", { href: url, target: "_blank", rel: "noopener" }, code) : code;
  return h("span", {}, shown, " ", copyButton(name, () => text));
}

function places({ worker: id, trace_id: trace }, worker) {
  const version = worker?.id === id ? worker?.version : null;
  return {
    Worker: id ? { key: id, create: () => h("a", { href: urlOf("workers", { hash: id }), translate: "no" }, h("bdi", {}, id)) } : null,
    Version: version,
    Trace: trace ? { key: trace, create: () => copied("trace id", trace, traceUrl?.replaceAll("{trace_id}", trace)) } : null,
  };
}

function whyNoResult(isErased) {
  return isErased ? "The result was erased." : "The job has returned nothing, or its result was erased.";
}

function whyNotKept({ status, finished_at: finished, started_at: started }, isErased) {
  if (isErased) return "The payload was erased.";
  if (!finished) return "The payload is kept when an attempt fails.";
  if (status === "succeeded") return "The payload was not kept: a job that succeeds keeps it only if its kind says so.";
  if (!started) return "The payload was not kept: the job ended before it started.";
  return "The payload was not kept: its kind says so, or it was erased or lost.";
}
