/** `watchJob()`: one connection per notifier, shared by all watches of all tabs. */

import { registryFor } from "./job-registry.js";
import { readClaims, TOKEN_REJECTIONS } from "./token.js";
import { TokenSource } from "./token-source.js";
import { call } from "./watched.js";

const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const NOT_A_WATCH = { code: "invalid_token", message: "This is not a watch token." };

/**
 * Watch one job until `close()`. The watch continues after the job has finished, because a job can be redriven.
 *
 * No callback is called before this function returns, nor after `close()`.
 *
 * @param {object} options
 * @param {string} options.url the notifier's public base URL
 * @param {string | (() => string | Promise<string>)} options.token the job's watch token, or the token of a list that the
 *   job is on, or a function that returns one: it is called at the start, before the token expires, and when it is refused
 * @param {string} [options.jobId] the job's id; needed with the token of a list
 * @param {boolean | number} [options.log] whether to follow the job's log too, or the byte offset up to which the page has it
 * @param {(piece: {from: number, to: number, attempt: number, text: string}) => void} [options.onLog] called with each piece
 *   of the log, each byte once; a piece that begins after the end of the one before means that older text is gone
 * @param {(state: "connecting" | "live" | "reconnecting" | "refused", detail?: {code: number, reason: string}) => void}
 *   [options.onConnection] called when the state of the connection changes, with the cause
 * @param {(error: {code: string, message: string}) => void} [options.onError] called when the job cannot be watched
 *   (`invalid_token`, `token_expired`, `too_many_watches`, `refused`, `origin_not_allowed`, or `unknown`: the record is
 *   lost, and the watch continues; of a function also `no_token`, and the first refusal of a token is no error), cannot be
 *   cancelled (`forbidden`, `unavailable`), or does not show its log (`forbidden`)
 * @param {(snapshot: object) => void} onSnapshot called with each newer snapshot, first with the last one that the page
 *   already has
 * @returns {{id: ?string, now: () => number, confirmedUntil: () => number, cancel: () => void, close: () => void}} `id`
 *   is null while there is no watch token; `now()` returns the server's time in ms; `confirmedUntil()` returns the
 *   server's time until which the newest snapshot is known to be current, and 0 while the connection is not live
 */
export function watchJob({ url, token, jobId, log = false, onLog, onConnection, onError }, onSnapshot) {
  const watch = { onConnection, onError, onLog, onSnapshot, closed: false };
  const offset = log === false ? undefined : Number(log === true ? 0 : log);
  let registry, job, tokens;
  let unanswered = null; // the token after a refused one, until a snapshot shows that the server accepts it

  /** Watch the job with a token, or go on with another one; return an error if it is no token for this job. */
  function start(value) {
    const claims = readClaims(value);
    const id = claims && (claims.sub ?? jobId);
    if (!JOB_ID.test(id) || (job && id !== job.id)) return NOT_A_WATCH;
    registry ??= registryFor(url);
    job = registry.addWatch({ id, token: value, log: offset }, watch);
    if (job.wasRejected) unanswered = value;
    else tokens?.onAccepted(value, registry.now());
    return null;
  }

  if (typeof token === "function") {
    const isWatching = () => job && !job.rejected;
    tokens = new TokenSource(token, start, (error) => isWatching() || call({ onError }, "onError", error));
    watch.onSnapshot = (snapshot) => {
      if (unanswered) tokens.onAccepted(unanswered, registry.now());
      unanswered = null;
      onSnapshot(snapshot);
    };
    watch.onError = (error) => {
      if (!TOKEN_REJECTIONS.has(error.code) || tokens.retry() > 1) onError?.(error);
    };
  } else if (start(token)) queueMicrotask(() => call(watch, "onError", NOT_A_WATCH));
  return {
    get id() {
      return job?.id ?? null;
    },
    now: () => registry?.now() ?? Date.now(),
    confirmedUntil: () => (job ? registry.confirmedUntil(job) : 0),
    cancel: () => job && registry.cancel(job),
    close() {
      tokens?.close();
      watch.closed = true;
      if (job) registry.removeWatch(job, watch);
    },
  };
}
