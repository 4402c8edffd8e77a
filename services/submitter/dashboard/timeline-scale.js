/** What a job's timeline shows: when it waited, and when each of its attempts ran, to scale. */

const LONG = 10; // a wait this many times as long as all attempts and shorter waits would hide them
const SHORTENED = 2; // so many times as long it is drawn instead
const MIN_SCALE_MS = 1000; // next to less than this, no wait is shortened
const OUTCOMES = { running: null, retrying: "failed", queued: "released" }; // of the current attempt; else the status

/**
 * Return the attempts of a job, the oldest first, each with the error that operators see.
 *
 * @param {object} snapshot
 * @param {?object} details of the job; those of an older snapshot lack errors
 * @returns {{attempt: number, started_at: ?string, ended_at: ?string, outcome: ?string, error: ?object}[]} an attempt that
 *   runs has no end and no outcome
 */
export function attemptsOf(snapshot, details) {
  const { status, attempt, started_at: started, finished_at: finished, updated_at: updated, error } = snapshot;
  const earlier = (snapshot.earlier_attempts ?? []).map((each) => ({ ...each, error: each.error ? { type: each.error, message: null } : null }));
  const outcome = Object.hasOwn(OUTCOMES, status) ? OUTCOMES[status] : status;
  const current = { attempt, started_at: started, ended_at: finished ?? (outcome ? updated : null), outcome, error };
  const isStarted = started || (status !== "queued" && error);
  return [...earlier, ...(isStarted ? [current] : [])].map((each) => {
    const known = details?.attempts.find((other) => other.attempt === each.attempt && other.started_at === each.started_at);
    return { ...each, error: each.error && (known?.error ?? each.error) };
  });
}

/**
 * Return whether the current attempt had started before, and was released by a worker that stopped: it has progress from
 * before its start. A snapshot has no other trace of it.
 */
export function isContinued({ started_at: started, advanced_at: advanced }) {
  return Boolean(started && advanced) && Date.parse(advanced) < Date.parse(started);
}

/**
 * Return the parts of a job's life in order: `{type, from, to, row}`. The type is `wait`, `run`, or `idle` until the job was
 * run again; the times are in ms, and the row is the index of the attempt that runs or that the wait follows, -1 before the
 * first one.
 */
export function partsOf({ status, submitted_at: submitted, redriven_at: redriven, finished_at: finished }, attempts, now) {
  const parts = [];
  const again = Date.parse(redriven); // NaN if that is unknown
  let at = Date.parse(submitted);
  const add = (type, to, row) => {
    if (to > at || type === "run") parts.push({ type, from: at, to: Math.max(at, to), row });
    at = Math.max(at, to);
  };
  const addWait = (to, row) => {
    if (again > at && again <= to) add("idle", again, row);
    add("wait", to, row);
  };
  attempts.forEach(({ started_at: started, ended_at: ended }, row) => {
    if (!started) return;
    addWait(Date.parse(started), row - 1);
    at = Date.parse(started); // the clock of the submission may be ahead
    add("run", ended ? Date.parse(ended) : now, row);
  });
  const last = attempts.findLastIndex(({ started_at: started }) => started);
  const hasWaited = finished ? last < 0 || last < attempts.length - 1 || again >= at : status !== "running"; // after the last start
  if (hasWaited) addWait(finished ? Date.parse(finished) : now, last);
  return parts;
}

/**
 * Place the parts on an axis from 0 to 1: each gets `start` and `share`, to scale. A wait that would leave no room for the
 * attempts and the shorter waits is shortened, and has `isShortened`.
 */
export function place(parts) {
  const lengths = new Map(parts.map((part) => [part, part.to - part.from]));
  const waits = parts.filter(({ type }) => type !== "run").sort((a, b) => lengths.get(a) - lengths.get(b));
  const shortened = new Set();
  let total = parts.reduce((sum, part) => sum + (part.type === "run" ? lengths.get(part) : 0), 0);
  for (const wait of waits) {
    const base = Math.max(total, MIN_SCALE_MS);
    if (parts.length > 1 && lengths.get(wait) > LONG * base) {
      shortened.add(wait);
      lengths.set(wait, SHORTENED * base);
    }
    total += lengths.get(wait);
  }
  let start = 0;
  return parts.map((part) => {
    const share = total ? lengths.get(part) / total : 0;
    start += share;
    return { ...part, start: start - share, share, isShortened: shortened.has(part) };
  });
}
