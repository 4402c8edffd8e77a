/** `watchJob()`: one connection per notifier, shared by all watches of all tabs. */

import { registryFor } from "./job-registry.js";
import { readClaims } from "./token.js";
import { call } from "./watched.js";

const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const MAX_TOKEN_LENGTH = 4096; // the server's limit

/**
 * Watch one job until `close()`. The watch continues after the job has finished, because a job can be redriven.
 *
 * No callback is called before this function returns, nor after `close()`.
 *
 * @param {object} options
 * @param {string} options.url the notifier's public base URL
 * @param {string} options.token the job's watch token, or the token of a list that the job is on
 * @param {string} [options.jobId] the job's id; needed with the token of a list
 * @param {boolean | number} [options.log] whether to follow the job's log too, or the byte offset up to which the page has it
 * @param {(piece: {from: number, to: number, attempt: number, text: string}) => void} [options.onLog] called with each piece
 *   of the log, each byte once; a piece that begins after the end of the one before means that older text is gone
 * @param {(state: "connecting" | "live" | "reconnecting" | "refused", detail?: {code: number, reason: string}) => void}
 *   [options.onConnection] called when the state of the connection changes, with the cause
 * @param {(error: {code: string, message: string}) => void} [options.onError] called when the job cannot be watched
 *   (`invalid_token`, `token_expired`, `too_many_watches`, `refused`, `origin_not_allowed`, or `unknown`: the record is
 *   lost, and the watch continues), cannot be cancelled (`forbidden`, `unavailable`), or does not show its log (`forbidden`)
 * @param {(snapshot: object) => void} onSnapshot called with each newer snapshot, first with the last one that the page
 *   already has
 * @returns {{id: ?string, now: () => number, confirmedUntil: () => number, cancel: () => void, close: () => void}} `id`
 *   is null if the token is not a watch token; `now()` returns the server's time in ms; `confirmedUntil()` returns the
 *   server's time until which the newest snapshot is known to be current, and 0 while the connection is not live
 */
export function watchJob({ url, token, jobId, log = false, onLog, onConnection, onError }, onSnapshot) {
  const watch = { onConnection, onError, onLog, onSnapshot, closed: false };
  const claims = readClaims(token);
  const id = claims && (claims.sub ?? jobId);
  if (!JOB_ID.test(id) || token.length > MAX_TOKEN_LENGTH) return rejectToken(watch);
  const registry = registryFor(url);
  const job = registry.addWatch({ id, token, log: log === false ? undefined : Number(log === true ? 0 : log) }, watch);
  return {
    id: job.id,
    now: () => registry.now(),
    confirmedUntil: () => registry.confirmedUntil(job),
    cancel: () => registry.cancel(job),
    close: () => registry.removeWatch(job, watch),
  };
}

function rejectToken(watch) {
  const error = { code: "invalid_token", message: "This is not a watch token." };
  queueMicrotask(() => call(watch, "onError", error));
  return { id: null, now: Date.now, confirmedUntil: () => 0, cancel() {}, close: () => (watch.closed = true) };
}
