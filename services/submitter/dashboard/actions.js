/**
 * What an operator does with one job: each action asks if it cannot be undone, and shows its outcome.
 *
 * A job is given as its snapshot. If it was run again since the operator has seen it, nothing is done a second time.
 */

import { ApiError } from "/assets/api.js";
import { copyText } from "/assets/clipboard.js";
import { readDetails } from "/assets/details.js";
import { h } from "/assets/dom.js";
import { isCancelling, nameText, plainText } from "/assets/format.js";
import {
  cancelJob,
  discardJob,
  eraseJob,
  hasChanged,
  reasonText,
  redriveJob,
  shareJob,
} from "/assets/job-requests.js";
import { ask } from "/assets/dialogs.js";
import { urlOf } from "/assets/router.js";
import { cutText } from "/assets/text.js";

const MAX_TITLE = 60; // characters
const READ_ONLY = "Read-only: this API key does not have the role operate.";

/** Return a text that does not change the direction of the text around it; its own marks could end the isolation. */
export function isolated(text) {
  return `\u2068${plainText(text)}\u2069`;
}

/** Return what people call a job, in quotation marks that a name in another direction does not leave. */
export function quotedName(job) {
  return `“${isolated(cutText(nameText(job), MAX_TITLE))}”`;
}

/** The actions. Each returns whether it was carried out. */
export class JobActions {
  #app;
  #busy = new Set(); // the actions in progress, and their jobs

  constructor(app) {
    this.#app = app;
  }

  /** Cancel a job that has not ended. */
  cancel(job) {
    return this.#act("cancel", job, async () => {
      if (job.finished_at) return this.#refuse(job, "It has ended before.");
      if (isCancelling(job)) return this.#refuse(job, "It is being cancelled already.");
      const content = job.started_at ? "What it has done so far stays done. Its worker stops it at its next step." : "It will not start.";
      if (!(await confirm(`Cancel ${quotedName(job)}?`, content, { text: "Cancel the job", keep: "Keep it", isDanger: true }))) return false;
      const { finished_at: finished } = await cancelJob(this.#app.api, job);
      return this.#report(finished ? `${quotedName(job)} is cancelled.` : `${quotedName(job)} is being cancelled.`, job.id);
    });
  }

  /** Run an ended job again: one that has succeeded as a new job, any other under its id. */
  runAgain(job) {
    return job.status === "succeeded" ? this.runAgainWithChanges(job) : this.redrive(job);
  }

  /** Run an ended job, or one of the poison queue, again under the same id. */
  redrive(job) {
    return this.#act("redrive", job, async () => {
      if (job.finished_at === null) return this.#refuse(job, "It has not ended.");
      await redriveJob(this.#app.api, job);
      return this.#report(`${quotedName(job)} runs again.`, job.id);
    });
  }

  /** Show the payload of a job, and submit it again as a new job with another one. */
  runAgainWithChanges(job) {
    return this.#act("resubmit", job, async () => {
      const { askForPayload } = await import("/assets/rerun-dialog.js");
      const receipt = await askForPayload(this.#app.api, job, quotedName(job));
      return receipt !== null && this.#report(`${quotedName(job)} runs again as a new job.`, receipt.id);
    });
  }

  /** Remove what an ended job has left. */
  erase(job) {
    return this.#act("erase", job, async () => {
      const content = "Its result, log, details and kept payload are removed for good. It cannot run again after that.";
      if (!(await confirm(`Erase ${quotedName(job)}?`, content, { text: "Erase", keep: "Keep it", isDanger: true }))) return false;
      await eraseJob(this.#app.api, job);
      return this.#report(`${quotedName(job)} is erased.`, job.id);
    });
  }

  /** Remove a job from the poison queue without running it. */
  discard(job) {
    return this.#act("discard", job, async () => {
      const content = "It is removed from the poison queue without running again. Its record, if it has one, stays.";
      if (!(await confirm(`Discard ${quotedName(job)}?`, content, { text: "Discard", keep: "Keep it", isDanger: true }))) return false;
      await discardJob(this.#app.api, job);
      return this.#report(`${quotedName(job)} is discarded.`);
    });
  }

  /** Copy a link that can watch a job and no more. */
  share(job) {
    return this.#act("share", job, async () => {
      const link = await shareJob(this.#app.api, job);
      if (!(await copyText(link))) return showLink(link);
      return this.#report("The link is copied. Anyone with it can watch the job for a day, but not cancel it.");
    });
  }

  /**
   * Act on many jobs: see `actOnMany` in bulk-actions.js.
   *
   * @returns {Promise<?string[]>} the ids of the jobs with which the action was carried out, null if there are none yet
   */
  async bulk(action, target, onProgress) {
    if (!this.#isAllowed()) return null;
    if (target.length === 1) return (await this[action](target[0])) ? [target[0].id] : null;
    const { actOnMany } = await import("/assets/bulk-actions.js");
    return actOnMany(this.#app, action, target, onProgress);
  }

  /** Run an action unless another one of the same job is in progress, and show why it was not carried out. */
  async #act(action, job, run) {
    const key = `${action} ${job.id}`;
    if (this.#busy.has(key) || !this.#isAllowed()) return false;
    this.#busy.add(key);
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof ApiError)) return this.#refuse(job, `A part of the page failed; reload it. (${error.message})`);
      if (error.code === "payload_not_kept") return this.runAgainWithChanges(job); // the dialog says why
      return this.#refuse(job, reasonText(action, error, hasChanged(error) ? await this.#lastOperator(job.id) : ""));
    } finally {
      this.#busy.delete(key);
    }
  }

  #isAllowed() {
    const { canOperate } = this.#app.session;
    if (!canOperate) this.#app.notices.show(READ_ONLY, { isError: true });
    return canOperate;
  }

  #report(text, id) {
    this.#app.notices.show(text, { link: this.#linkTo(id) });
    return true;
  }

  #refuse(job, reason) {
    this.#app.notices.show(`Nothing was done with ${quotedName(job)}. ${reason}`, { isError: true, link: this.#linkTo(job.id) });
    return false;
  }

  /** Return a link to a job, unless its page is open. */
  #linkTo(id) {
    const { view, name } = this.#app.router.route;
    return id && !(view === "job" && name === id) ? { href: urlOf("job", { name: id }), text: "Open the job" } : undefined;
  }

  /** Return the name of the operator who last ran a job again, "" if it is not known. */
  async #lastOperator(id) {
    try {
      const { actions = [] } = await readDetails(this.#app.api, id);
      const runs = actions.filter(({ action }) => action === "redrive");
      const [newest] = runs.sort((one, other) => Date.parse(other.at) - Date.parse(one.at));
      return newest && newest.by !== "anyone" ? isolated(newest.by) : "";
    } catch {
      return "";
    }
  }
}

/** Ask whether to go on; return whether the operator wants it. */
async function confirm(title, content, { text, keep = "Not now", isDanger = false }) {
  const buttons = [
    { value: "", text: keep },
    { value: "yes", text, isMain: !isDanger, isDanger },
  ];
  return (await ask({ title, content: [h("p", {}, content)], buttons })) === "yes";
}

/** Show a link where the browser does not allow to copy it. */
async function showLink(link) {
  const field = h("input", { readonly: true, value: link, "aria-label": "Link", autofocus: true, focus: () => field.select() });
  const text = h("p", {}, "Copy this link. Anyone with it can watch the job for a day, but not cancel it.");
  await ask({ title: "Share the job", content: [text, field], buttons: [{ value: "", text: "Close", isMain: true }] });
  return true;
}
