/**
 * What a live list shows: the newest jobs, and the older ones that were loaded, newest first. It needs no connection.
 *
 * The server keeps the head up to date: the newest jobs, at most `limit`. The rows are those that a page shows. While the
 * rows are held, they stay as they are: newer jobs wait, and rows that left the list stay. Both are applied when the
 * rows are released.
 */

export const DEFAULT_LIMIT = 50;

/** The state of a list that has not been received yet. */
export const INITIAL_STATE = {
  jobs: null,
  fresh: 0,
  isOutdated: false,
  hasMore: false,
  loading: false,
  complete: true,
  connection: "connecting",
  error: null,
  errors: new Map(),
};

const MAX_EMPTY_PAGES = 20; // in which the server found no match yet, in a row
const ENDED = new Set(["succeeded", "failed", "cancelled"]);

export class JobList {
  revision = 0; // how often the head has changed
  #statuses; // of the filter
  #byEnd; // whether jobs are ordered by the time of their end
  #limit;
  #size; // the rows to keep: the head, and as many as were loaded
  #snapshots = new Map(); // of the jobs of head and rows, by id
  #head = new Set(); // ids
  #rows = new Set(); // ids, in their order
  #left = new Set(); // the ids of jobs that left the list
  #held = false;
  #end = {}; // the id `after` which the jobs that the query `older` returns follow; it is null if there are none

  constructor({ statuses, limit }) {
    this.#statuses = new Set(statuses);
    this.#byEnd = statuses.length > 0 && statuses.every((status) => ENDED.has(status));
    this.#limit = this.#size = limit;
  }

  /** The snapshots to show. */
  get jobs() {
    return [...this.#rows].map((id) => this.#snapshots.get(id)).filter(Boolean);
  }

  /** How many newer jobs wait while the rows are held; `limit` means that there may be more. */
  get fresh() {
    const [newest] = this.#sorted(this.#rows);
    const head = this.#sorted(this.#head);
    return newest ? head.filter((snapshot) => this.#compare(snapshot, newest) < 0).length : head.length;
  }

  /** Whether the rows would change if they were released. */
  get isOutdated() {
    const [ids, rows] = [this.#currentRows(), [...this.#rows]];
    return ids.length !== rows.length || ids.some((id, index) => id !== rows[index]);
  }

  /** Whether snapshots of the head are missing. */
  get isIncomplete() {
    return [...this.#head].some((id) => !this.#snapshots.has(id));
  }

  get hasMore() {
    return this.older !== null;
  }

  /** The query that returns the jobs older than the rows, null if there are none. */
  get older() {
    const last = this.#sorted(this.#rows).at(-1);
    if (!last || this.#head.size < this.#limit) return null;
    if (last.id !== this.#end.after) return { until: new Date(Date.parse(this.#timeOf(last)) + 1).toISOString() };
    return this.#end.older;
  }

  get(id) {
    return this.#snapshots.get(id);
  }

  /** Replace the head; the cursor `next` is that of the jobs after it. */
  setHead(ids, next) {
    this.change(ids, [...this.#head].filter((id) => !ids.includes(id)));
    if (this.#rows.size <= ids.length) this.#setEnd(ids.at(-1), {}, next);
  }

  /** Add jobs to the head, and remove some. */
  change(entered, left) {
    this.revision++;
    for (const id of left) this.#head.delete(id);
    for (const id of entered) {
      this.#head.add(id);
      this.#left.delete(id);
    }
    const [oldest] = this.#sorted(this.#head).slice(-1);
    for (const id of left) if (!this.#wasPushedOut(id, oldest)) this.#left.add(id);
    this.#update();
  }

  /** Apply a snapshot of a job of the head or the rows, if it is newer; return whether anything has changed. */
  apply(snapshot) {
    const { id, version, status, finished_at: finished } = snapshot;
    if (!this.#head.has(id) && !this.#rows.has(id)) return false;
    const before = this.#snapshots.get(id);
    if (version <= before?.version) return false;
    this.#snapshots.set(id, snapshot);
    if (status !== before?.status || finished !== before.finished_at) this.#update();
    return true;
  }

  /** Remove a job whose record is gone. */
  remove(id) {
    this.#left.add(id);
    this.#update();
  }

  /**
   * Load older jobs.
   *
   * @param {(query: object) => Promise<{jobs: object[], next: ?string}>} fetchPage
   * @throws what `fetchPage` throws; the rows stay, and the jobs after them can be loaded again
   */
  async loadOlder(fetchPage) {
    const before = this.jobs.length;
    for (let pages = 0; pages < MAX_EMPTY_PAGES && this.older && this.jobs.length === before; pages++) {
      const query = this.older;
      const { jobs, next } = await fetchPage(query).catch((error) => {
        if (error.code === "invalid") this.#end = {}; // the server rejects the cursor
        throw error;
      });
      this.#append(jobs, next, query);
    }
  }

  /** Append a page of older jobs; `next` is the cursor of the same query's next page. */
  #append(snapshots, next, query) {
    for (const snapshot of snapshots) {
      this.#rows.add(snapshot.id);
      if (!(this.get(snapshot.id)?.version >= snapshot.version)) this.#snapshots.set(snapshot.id, snapshot);
    }
    this.#size = Math.max(this.#size, this.#rows.size);
    this.#setEnd(this.#sorted(this.#rows).at(-1)?.id, query, next);
  }

  /** Hold the rows, or release them. */
  hold(held) {
    this.#held = held;
    this.#update();
  }

  /** A cursor continues one query, and is valid with no other. */
  #setEnd(after, query, next) {
    this.#end = { after, older: next && { ...query, cursor: next } };
  }

  /** Return whether a job left the head because of newer ones, and not because the filter no longer selects it. */
  #wasPushedOut(id, oldest) {
    const snapshot = this.get(id);
    const isFull = this.#head.size >= this.#limit;
    return snapshot && isFull && oldest && this.#isSelected(snapshot) && this.#compare(oldest, snapshot) < 0;
  }

  #isSelected({ status }) {
    return !this.#statuses.size || this.#statuses.has(status);
  }

  /** Bring the rows up to date unless they are held, and forget the snapshots that are not needed any more. */
  #update() {
    if (!this.#held) this.#rows = new Set(this.#currentRows());
    const isUsed = (id) => this.#head.has(id) || this.#rows.has(id);
    for (const id of this.#left) if (!isUsed(id)) this.#left.delete(id);
    for (const id of this.#snapshots.keys()) if (!isUsed(id)) this.#snapshots.delete(id);
  }

  /** Return the ids of the rows to show: the head, and the older rows unless there are unknown jobs between them. */
  #currentRows() {
    const isWhole = this.#head.size < this.#limit;
    const isConnected = [...this.#head].some((id) => this.#rows.has(id));
    const ids = new Set([...this.#head, ...(!isWhole && isConnected ? this.#rows : [])]);
    const listed = this.#sorted(ids).filter(({ id }) => !this.#left.has(id));
    return listed.slice(0, this.#size).map(({ id }) => id);
  }

  /** Return the snapshots of some jobs, newest first; those without a snapshot yet are missing. */
  #sorted(ids) {
    const snapshots = [...ids].map((id) => this.#snapshots.get(id)).filter(Boolean);
    return snapshots.sort((one, other) => this.#compare(one, other));
  }

  /** Compare two snapshots as the server orders them: by their time, then by id, newest first. */
  #compare(one, other) {
    const [key, otherKey] = [one, other].map((snapshot) => this.#timeOf(snapshot) + snapshot.id);
    return key < otherKey ? 1 : key > otherKey ? -1 : 0;
  }

  /** Return the time of a job in the order of the list: of its end if all jobs on the list have ended. */
  #timeOf({ submitted_at: submitted, finished_at: finished }) {
    return (this.#byEnd && finished) || submitted;
  }
}

/** Return a short id that differs for different lists: tabs with the same list use the same one. */
export function listId(token, list) {
  let [sum, product] = [0, 1];
  for (const char of JSON.stringify([token, list])) {
    sum = Math.imul(sum + char.codePointAt(0), 31);
    product = Math.imul(product ^ char.codePointAt(0), 0x01000193);
  }
  return `${sum >>> 0}-${product >>> 0}`;
}
