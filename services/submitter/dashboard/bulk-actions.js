/**
 * Actions on many jobs: on those that are selected, one request for each, or on all that match a filter, which a job of
 * the server does.
 */

import { isolated } from "/assets/actions.js";
import { ApiError } from "/assets/api.js";
import { h, loadStyles } from "/assets/dom.js";
import { nameText, shortId } from "/assets/format.js";
import { applies, bulkActionOf, cancelJob, hasChanged, runJobAgain } from "/assets/job-requests.js";
import { ask } from "/assets/dialogs.js";
import { newKey } from "/assets/request.js";
import { urlOf } from "/assets/router.js";

const CONCURRENCY = 5;
const MAX_EXAMPLES = 5;
const MAX_COUNTED = 10_000; // the server counts no further

const TEXTS = {
  runAgain: {
    question: (jobs) => `Run ${jobs} again?`,
    button: "Run again",
    done: (count) => `${count} run again`,
    left: (count) => (count === 1 ? "1 selected job has not ended, and goes on." : `${count} selected jobs have not ended, and go on.`),
  },
  cancel: {
    question: (jobs) => `Cancel ${jobs}?`,
    button: "Cancel the jobs",
    done: (count) => `${count} cancelled`,
    left: (count) => (count === 1 ? "1 selected job has ended, or is being cancelled." : `${count} selected jobs have ended, or are being cancelled.`),
  },
};
const OUTCOMES = {
  changed: (count) => `${count} had changed`,
  ended: (count) => `${count} had ended`,
  unknown: (count) => `${count} ${count === 1 ? "has" : "have"} no record any more`,
  payload_not_kept: (count) => `${count} without a payload that was kept`,
};

/**
 * Ask, and act on many jobs.
 *
 * @param {"runAgain" | "cancel"} action
 * @param {object[] | object} target the snapshots of jobs, or a filter as the list has it
 * @param {(done: number, all: number) => void} [onProgress] called while requests for the jobs are sent
 * @returns {Promise<?string[]>} the ids of the jobs with which the action was carried out; null if the operator has changed
 *   their mind, or if the server acts on the jobs
 */
export async function actOnMany(app, action, target, onProgress = () => {}) {
  await loadStyles("actions.css");
  return Array.isArray(target) ? actOnSelected(app, action, target, onProgress) : actOnMatching(app, action, target);
}

async function actOnSelected(app, action, selected, onProgress) {
  const jobs = selected.filter((job) => applies(action, job));
  const left = selected.length - jobs.length;
  if (!jobs.length) {
    app.notices.show(`Nothing was done. ${TEXTS[action].left(left)}`, { isError: true });
    return null;
  }
  const content = [examplesOf(jobs, jobs.length), left && h("p", {}, TEXTS[action].left(left)), action === "runAgain" && succeededText(jobs)].filter(Boolean);
  const title = TEXTS[action].question(jobsText(jobs.length));
  if (!(await ask({ title, content, buttons: buttonsOf(action) }))) return null;
  const outcomes = new Outcomes(action);
  const key = newKey(); // of all requests that submit jobs
  await inParallel(jobs, async (job) => {
    await outcomes.add(job, action === "cancel" ? cancelJob(app.api, job) : runJobAgain(app.api, job, key));
    onProgress(outcomes.count, jobs.length);
  });
  app.notices.show(outcomes.summary, { isError: outcomes.done.length < jobs.length });
  return outcomes.done;
}

/** Call a function with each item, with some at a time. */
async function inParallel(items, call) {
  const pending = items.values();
  const worker = async () => {
    for (const item of pending) await call(item);
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
}

/** Return a paragraph about the jobs that become new jobs, null if there are none. */
function succeededText(jobs) {
  const count = jobs.filter(({ status }) => status === "succeeded").length;
  const text = count === 1 ? "1 has succeeded. It runs again as a new job." : `${count} have succeeded. They run again as new jobs.`;
  return count ? h("p", {}, text) : null;
}

/** The outcomes of the requests for selected jobs. */
class Outcomes {
  /** The ids of the jobs with which the action was carried out. */
  done = [];
  count = 0;
  #action;
  #others = new Map(); // by the code of the answer: how many jobs, and the last message

  constructor(action) {
    this.#action = action;
  }

  /** Add the outcome of a request for a job. */
  async add(job, request) {
    try {
      await request;
      this.done.push(job.id);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const code = hasChanged(error) ? "changed" : error.code;
      const count = (this.#others.get(code)?.count ?? 0) + 1;
      this.#others.set(code, { count, message: error.message.replace(/\.$/, "") });
    }
    this.count++;
  }

  /** For the operator, such as "12 run again, 2 had changed." */
  get summary() {
    const others = [...this.#others].map(([code, { count, message }]) => OUTCOMES[code]?.(count) ?? `${count} failed (${message})`);
    return `${[TEXTS[this.#action].done(numberText(this.done.length)), ...others].join(", ")}.`;
  }
}

/** Ask with the number of jobs that match now, and let the server act on them; show its job. */
async function actOnMatching(app, action, fields) {
  const name = bulkActionOf(action, fields);
  const request = (dryRun) => ({ action: name, filter, ...(dryRun && { dry_run: true }) });
  let filter, selection;
  try {
    const { now } = await app.api.live("/live/jobs", { limit: 1 }); // jobs that end or arrive later are not meant
    filter = { ...fields, until: fields.until && Date.parse(fields.until) < Date.parse(now) ? fields.until : now };
    selection = await app.api.submitter("/bulk", { method: "POST", body: request(true) });
  } catch (error) {
    app.notices.showError("The jobs could not be counted.", error);
    return null;
  }
  if (!selection.count) {
    app.notices.show("Nothing was done. No job matches any more.", { isError: true });
    return null;
  }
  const headers = { "Idempotency-Key": newKey() };
  let receipt = null;
  const onSubmit = async () => {
    receipt = await app.api.submitter("/bulk", { method: "POST", body: request(false), headers });
    return true;
  };
  const title = TEXTS[action].question(matchingText(selection, fields));
  await ask({ title, content: questionContent(name, selection, fields), buttons: buttonsOf(action), onSubmit });
  if (receipt) app.router.navigate(urlOf("job", { name: receipt.id }));
  return null;
}

function buttonsOf(action) {
  const isDanger = action === "cancel";
  return [
    { value: "", text: "Not now" },
    { value: "yes", text: TEXTS[action].button, isMain: !isDanger, isDanger },
  ];
}

function questionContent(name, { count, complete, examples }, fields) {
  return [
    h("p", {}, criteriaText(fields)),
    examplesOf(examples, count),
    !complete && count < MAX_COUNTED && h("p", {}, "The list lags at the moment, so there may be more."),
    h("p", { class: "soft" }, `${name === "rerun" ? "They have succeeded, and run again as new jobs. " : ""}A job does this, which you can watch and cancel. Jobs that change before it comes to them stay as they are.`),
  ].filter(Boolean);
}

/** Return a list of the first jobs, and how many there are besides. */
function examplesOf(jobs, count) {
  const items = jobs.slice(0, MAX_EXAMPLES).map((job) => h("li", {}, h("bdi", {}, nameText(job)), h("code", {}, `${job.kind} · ${shortId(job.id)}`)));
  const rest = count - items.length;
  return h("ul", { class: "bulk-examples" }, ...items, rest > 0 && h("li", { class: "soft" }, `and ${numberText(rest)} more`));
}

/** Return how many jobs match, such as "3,412 failed jobs". */
function matchingText({ count, complete }, { status = [] }) {
  const countText = !complete && count >= MAX_COUNTED ? `at least ${numberText(count)}` : numberText(count);
  return [countText, status.join(" or "), count === 1 ? "job" : "jobs"].filter(Boolean).join(" ");
}

/** Return what the filter selects, in words. */
function criteriaText({ kind, owner, tag = [], error_type: errorType, attempts_min: attempts, since, until }) {
  const time = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const parts = [
    kind && `kind ${isolated(kind)}`,
    errorType && `error ${isolated(errorType)}`,
    owner && `owner ${isolated(owner)}`,
    ...[tag].flat().map((each) => `tag ${isolated(each)}`),
    attempts && `at least ${attempts} attempts`,
  ].filter(Boolean);
  const times = [since && `since ${time(since)}`, until && `until ${time(until)}`].filter(Boolean).join(" and ");
  if (!parts.length) return times ? `Jobs submitted ${times}.` : "Of all times, kinds and owners.";
  return `Jobs with ${parts.join(", ")}${times && `, submitted ${times}`}.`;
}

function jobsText(count) {
  return count === 1 ? "1 job" : `${numberText(count)} jobs`;
}

function numberText(count) {
  return count.toLocaleString();
}
