import type { ConnectionState, JobStatus, Snapshot, WatchError } from "./watch.js";

/** Selects jobs of a list. The token of the list may already select some of them. */
export interface JobsFilter {
  owner?: string;
  /** One tag, or several that a job must all have. */
  tag?: string | string[];
  kind?: string;
  status?: JobStatus | JobStatus[];
  /** Times such as `2026-01-01T00:00:00Z`: of the end if all statuses have ended, otherwise of the submission. */
  since?: string;
  until?: string;
  /** The attempt that a job has reached. */
  attempts_min?: number;
  /** The type of the true error; needs the scope `details`. */
  error_type?: string;
}

/** The state of a list of jobs. */
export interface JobListState<Result = unknown> {
  /** The newest snapshots, newest job first; null until the list has been received. */
  readonly jobs: readonly Snapshot<Result>[] | null;
  /** How many newer jobs wait while the rows are held; the limit of the list means that there may be more. */
  readonly fresh: number;
  /** Whether releasing the rows would change them. */
  readonly isOutdated: boolean;
  /** Whether there are older jobs for `more()`. */
  readonly hasMore: boolean;
  /** Whether `more()` is loading older jobs. */
  readonly loading: boolean;
  /** False while the server knows that jobs may be missing, for example after it has lost its data. */
  readonly complete: boolean;
  readonly connection: ConnectionState;
  /** Why the list cannot be shown, or no older jobs be loaded. */
  readonly error: WatchError | null;
  /** By a job's id: why it cannot be watched or cancelled. */
  readonly errors: ReadonlyMap<string, WatchError>;
}

export interface WatchJobsOptions {
  /** The notifier's public URL; not needed if a submitter serves this module. */
  url?: string;
  /** The token of a list, or a function that returns one: it is called at the start, and before the token expires. */
  token: string | (() => string | Promise<string>);
  filter?: JobsFilter;
  /** How many of the newest jobs are live: 1 to 100, 50 by default. */
  limit?: number;
}

export interface JobsWatch {
  /** Load older jobs. */
  more(): Promise<void>;
  /** Hold the rows as they are, for example while a user points at them, or release them. */
  hold(held: boolean): void;
  /** Watch only these jobs, by their ids, because the page shows no others. */
  setVisible(ids: Iterable<string>): void;
  /** Whether the token allows cancelling. */
  readonly canCancel: boolean;
  /** Request a job's cancellation; the token must allow it. */
  cancel(id: string): void;
  /** Go on with another token of the same list. */
  renew(token: WatchJobsOptions["token"]): void;
  /** Return the server's time in milliseconds since the epoch. */
  now(): number;
  /** Return the server's time until which a job's snapshot is known to be current, and 0 while it is not watched. */
  confirmedUntil(id: string): number;
  /** Stop watching; no callback is called afterwards. */
  close(): void;
}

/** Watch a list of jobs, newest first, until `close()`. */
export function watchJobs<Result = unknown>(
  options: WatchJobsOptions,
  onChange: (list: JobListState<Result>) => void,
): JobsWatch;
