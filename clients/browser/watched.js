/** What a page watches at a notifier, jobs and lists of jobs, each with the watches that share it. */

import { JobLog, partAfter } from "./job-log.js";
import { isBetterToken, mayCancel, readClaims, TOKEN_REJECTIONS } from "./token.js";

const REJECTIONS = new Set([...TOKEN_REJECTIONS, "too_many_watches"]); // the server does not watch the job

/** Something that is watched, and the watches that share it. */
class Watched {
  watches = new Set();

  constructor(id) {
    this.id = id;
  }

  /** Remove a watch; return whether the others need another request. */
  remove(watch) {
    this.watches.delete(watch);
    return false;
  }

  /** Call a new watch with what there is. The server sends a list again for each of its watches. */
  sendCurrent() {}

  /** Call one callback of all watches. A watch that a callback adds is skipped: it gets the current state itself. */
  notify(callback, ...details) {
    for (const watch of [...this.watches]) call(watch, callback, ...details);
  }
}

export class WatchedJob extends Watched {
  token = null; // the best of the watches' tokens that the server has not rejected
  rejectedTokens = new Set();
  snapshot = null;
  log = new JobLog();
  logError = null; // why the log is not shown, since the job was requested
  confirmed = 0; // the server's time until which the snapshot is known to have been current
  error = null; // the last one since the job was requested
  wasRejected = false; // and there was no snapshot since then
  cancelling = false; // requested here, and not confirmed by a snapshot yet
  dropped = false; // not requested any more until there is another token

  get finished() {
    return Boolean(this.snapshot?.finished_at);
  }

  /** Whether the server has rejected the subscription. */
  get rejected() {
    return REJECTIONS.has(this.error?.code);
  }

  get #wantsLog() {
    return [...this.watches].some(({ logEnd }) => logEnd !== undefined);
  }

  /** The offset from which to request the log; undefined if no watch wants it. */
  get #logOffset() {
    return this.#wantsLog ? this.log.end : undefined;
  }

  /** The tokens of the watches that the server has not rejected. */
  get #tokens() {
    return [...this.watches].flatMap(({ tokens }) => tokens).filter((token) => !this.rejectedTokens.has(token));
  }

  /** The token to cancel the job with: not the one that watches it if only another one permits that. */
  get cancelToken() {
    return [this.token, ...this.#tokens].find((token) => mayCancel(readClaims(token))) ?? this.token;
  }

  /** What another tab needs to watch the same job. */
  get request() {
    const { id, token, cancelToken, snapshot, cancelling } = this;
    return { id, token, cancelToken, snapshot, cancelling, log: this.#logOffset };
  }

  /** Add a watch, or give it another token; return whether the job must be requested, with another token or with the log. */
  add(watch, { token, cancelToken = token, snapshot, log }) {
    const isLogNew = !this.watches.has(watch) && this.#addLog(watch, log);
    this.watches.add(Object.assign(watch, { tokens: [token, cancelToken] }));
    for (const each of watch.tokens) this.rejectedTokens.delete(each);
    if (snapshot && !this.wasRejected) this.applySnapshot(snapshot);
    const best = this.token && !this.error ? this.#best([this.token, ...this.#tokens]) : token;
    if (best === this.token && !this.error) return isLogNew;
    this.token = best;
    this.error = null;
    this.dropped = false;
    return true;
  }

  /** Note up to which offset a watch has the log; return whether the log must be requested for it. */
  #addLog(watch, offset) {
    watch.logEnd = offset;
    if (offset === undefined) return false;
    if (this.#wantsLog && offset > this.log.end) {
      if (!this.log.isEmpty) watch.logEnd = 0; // the log has begun again since the watch had it
      return false;
    }
    if (this.log.covers(offset)) return !this.#wantsLog;
    this.log = new JobLog(offset);
    return true;
  }

  /** Remove a watch; return whether the job must be requested without its log, which the other watches do not want. */
  remove(watch) {
    const wantedLog = this.#wantsLog;
    super.remove(watch);
    if (this.#wantsLog) return false;
    this.logError = null;
    return wantedLog && this.watches.size > 0;
  }

  /** Replace a rejected token by the best one of the other watches; return whether there is one. */
  replaceToken() {
    this.rejectedTokens.add(this.token);
    const tokens = this.#tokens;
    if (!tokens.length) {
      this.rejectedTokens.clear();
      return false;
    }
    this.token = this.#best(tokens);
    return true;
  }

  #best(tokens) {
    const scope = this.#wantsLog ? "details" : undefined; // without it, most tokens do not open the log
    return tokens.reduce((best, token) => (isBetterToken(token, best, scope) ? token : best));
  }

  /**
   * Clear the error and return the message that subscribes to the job. A list's token does not name the job. After a
   * rejection, the server shall answer with a snapshot even if there is no newer one.
   */
  subscribeMessage() {
    this.error = this.logError = null;
    const jobId = readClaims(this.token).sub ? undefined : this.id;
    const version = this.wasRejected ? undefined : this.snapshot?.version;
    return { watch: this.token, version, job_id: jobId, log: this.#logOffset };
  }

  unsubscribeMessage() {
    return { unwatch: this.id };
  }

  applySnapshot(snapshot) {
    this.cancelling &&= !snapshot.cancel_requested && !snapshot.finished_at;
    const newer = snapshot.version - (this.snapshot?.version ?? -1);
    if (newer < 0 || (!newer && !this.wasRejected)) return;
    this.wasRejected = false;
    this.snapshot = snapshot;
    this.notify("onSnapshot", snapshot);
  }

  applyLog(piece) {
    if (this.log.contradicts(piece)) {
      this.log = new JobLog();
      for (const watch of this.watches) watch.logEnd &&= 0;
    }
    const added = this.log.add(piece);
    if (added) for (const watch of [...this.watches]) sendPiece(watch, added);
  }

  /** Called with an error of the job, or only of its log, or of a request with the other token to cancel it. */
  applyError({ code, message, log, cancel }) {
    if (log) return this.#refuseLog({ code, message });
    this.cancelling = false;
    if (!cancel) this.error = { code, message };
    this.wasRejected ||= this.rejected;
    this.notify("onError", { code, message });
  }

  #refuseLog(error) {
    if (this.#wantsLog) this.logError = error; // otherwise another tab's
    for (const watch of [...this.watches]) if (watch.logEnd !== undefined) call(watch, "onError", error);
  }

  /** Call a new watch with what there is: the snapshot, the log, and why the log is not shown. */
  sendCurrent(watch) {
    if (this.snapshot) call(watch, "onSnapshot", this.snapshot);
    if (watch.logEnd === undefined) return;
    for (const piece of this.log.piecesAfter(watch.logEnd)) sendPiece(watch, piece);
    if (this.logError) call(watch, "onError", this.logError);
  }
}

/** A live list of jobs. The server sends it for each request, so only its watches keep what is on it. */
export class WatchedList extends Watched {
  /** Add a watch; a list is requested for each. */
  add(watch, request) {
    this.watches.add(watch);
    this.request = request;
    return true;
  }

  subscribeMessage() {
    const { token, list } = this.request;
    return { list: token, ...list, list_id: this.id };
  }

  unsubscribeMessage() {
    return { unlist: this.id };
  }

  applyError({ code, message }) {
    this.notify("onError", { code, message });
  }
}

/** Call a callback of a watch. An exception is reported as uncaught and does not affect other watches. */
export function call(watch, callback, ...details) {
  if (watch.closed) return;
  try {
    watch[callback]?.(...details);
  } catch (error) {
    reportError(error);
  }
}

/** Call a watch with the part of a piece of the log that it does not have. */
function sendPiece(watch, piece) {
  const part = watch.logEnd === undefined ? null : partAfter(piece, watch.logEnd);
  if (!part) return;
  watch.logEnd = part.to;
  call(watch, "onLog", part);
}
