/** A time in RFC 3339 format, in UTC with milliseconds: `2026-01-01T00:00:00.000Z`. */
export type Time = string;

export type JobStatus = "queued" | "running" | "retrying" | "succeeded" | "failed" | "cancelled";

/** The progress of a job; `total` and `percent` are null if the total is unknown. */
export interface Progress {
  readonly current: number;
  readonly total: number | null;
  /** 0 to 100 */
  readonly percent: number | null;
  readonly unit: string | null;
  readonly message: string | null;
}

/** Why a job failed, in words for its user. */
export interface JobError {
  readonly type: string;
  readonly message: string;
}

/** An attempt before the current one. */
export interface EarlierAttempt {
  readonly attempt: number;
  /** Null if no worker has started it. */
  readonly started_at: Time | null;
  readonly ended_at: Time;
  /**
   * `released` by a worker that stopped, `lost` with its worker, or the status with which the job had ended before it was
   * redriven. A newer server may send others.
   */
  readonly outcome: "failed" | "released" | "lost" | "succeeded" | "cancelled" | (string & {});
  /** The type of its error. */
  readonly error: string | null;
}

/** The fields of a snapshot, whatever its status. */
export interface SnapshotFields<Result = unknown> {
  readonly id: string;
  readonly kind: string;
  readonly status: JobStatus;
  /** Increases with every change; 0 while the server has no record of the job. */
  readonly version: number;
  readonly generation: number;
  readonly attempt: number;
  readonly max_attempts: number;
  readonly progress: Progress | null;
  readonly result: Result | null;
  readonly error: JobError | null;
  readonly cancel_requested: boolean;
  readonly submitted_at: Time;
  readonly started_at: Time | null;
  readonly updated_at: Time | null;
  /** When the job finished; null before. */
  readonly finished_at: Time | null;
  /** When a queued or retrying job is due to start. */
  readonly due_at: Time | null;
  /** When the worker's lease expires unless the worker renews it. */
  readonly lease_until: Time | null;
  readonly expires_at: Time;
  /** What people call the job; absent if it has no name. */
  readonly name?: string;
  /** When the progress of this attempt last rose; absent before. */
  readonly advanced_at?: Time;
  /** The last five attempts before the current one, the oldest first; absent if there are none. */
  readonly earlier_attempts?: readonly EarlierAttempt[];
  /** When the job was last redriven and began to wait again; absent if it was not, or if that is unknown. */
  readonly redriven_at?: Time;
  /** The texts of numbers that JavaScript changes; added by this client, and absent from most snapshots. */
  readonly exact?: ExactTexts;
}

/** What the status of a snapshot tells about its outcome. */
type Outcome<Result> =
  | { readonly status: "queued" | "running" | "retrying"; readonly result: null; readonly finished_at: null }
  | { readonly status: "succeeded"; readonly result: Result; readonly error: null; readonly finished_at: Time }
  | { readonly status: "failed"; readonly result: null; readonly error: JobError; readonly finished_at: Time }
  | { readonly status: "cancelled"; readonly result: null; readonly finished_at: Time };

/**
 * The complete state of a job at one version. `Result` is the type of the job's result. Compare `status`, and the compiler
 * knows which of `result`, `error` and `finished_at` the job has.
 */
export type Snapshot<Result = unknown> = SnapshotFields<Result> & Outcome<Result>;

/**
 * The JSON texts, with the original numbers, of values whose numbers JavaScript cannot hold or writes in another way,
 * such as 9007199254740993, 1e400 or 1.10.
 */
export interface ExactTexts {
  /** The whole result. */
  readonly result?: string;
  /** The current progress, if it is above 2^53 - 1. */
  readonly current?: string;
  /** The total of the progress, if it is above 2^53 - 1. */
  readonly total?: string;
}

export type ConnectionState = "connecting" | "live" | "reconnecting" | "refused";

/**
 * The cause of a change of the connection's state: a WebSocket close code or HTTP status, and a reason. The code is 1006 if
 * the connection was lost, and also if the browser is offline or the server has been silent for too long.
 */
export interface ConnectionDetail {
  readonly code: number;
  readonly reason: string;
}

/** The error codes of client and server; a newer server may send others. */
export type ErrorCode =
  | "invalid_token"
  | "token_expired"
  | "no_token"
  | "origin_not_allowed"
  | "refused"
  | "unknown"
  | "too_many_watches"
  | "forbidden"
  | "unavailable"
  | (string & {});

/** Why a job cannot be watched, cannot be cancelled (`forbidden`, `unavailable`), or does not show its log (`forbidden`). */
export interface WatchError {
  readonly code: ErrorCode;
  readonly message: string;
  /** What the page's own function for the token has thrown. */
  readonly cause?: unknown;
}

/** A piece of a job's log. */
export interface LogPiece {
  /** The offset of its first byte in the log, in UTF-8. It is higher than the end of the piece before if older text is gone. */
  readonly from: number;
  /** The offset after its last byte; pass it as `log` to go on later. */
  readonly to: number;
  /** The attempt that has written it. */
  readonly attempt: number;
  /** The number of its first line, counted from 1, if older lines are gone; otherwise absent. */
  readonly line?: number;
  /** Whole characters. It may contain anything, such as escape sequences: show it as text. */
  readonly text: string;
}

export interface WatchOptions {
  /** The notifier's public URL. */
  url: string;
  /**
   * The job's watch token, or the token of a list that the job is on. Or a function that returns one: it is called at the
   * start, before the token expires, and when the server refuses it.
   */
  token: string | (() => string | Promise<string>);
  /** The job's id; needed with the token of a list. */
  jobId?: string;
  /**
   * Whether to follow the job's log, too, or the byte offset up to which the page has it. The token needs the scope `details`,
   * unless the job's kind has `log="watchers"`.
   */
  log?: boolean | number;
  /** Called with each piece of the log: first what there is, then live. Each byte comes once, also after lost connections. */
  onLog?: (piece: LogPiece) => void;
  /** Called when the state of the connection changes. */
  onConnection?: (state: ConnectionState, detail?: ConnectionDetail) => void;
  /**
   * Called when the job cannot be watched or cancelled, or does not show its log. With a function for the token, the first
   * refusal of a token is no error, and `no_token` means that the function has failed; it is called again later.
   */
  onError?: (error: WatchError) => void;
}

export interface Watch {
  /** The job's id; null while there is no watch token. */
  readonly id: string | null;
  /** Return the server's time in milliseconds since the epoch. */
  now(): number;
  /**
   * Return the server's time until which the newest snapshot is known to be current, and 0 while the connection is not
   * live. Say that something is overdue, such as the renewal of `lease_until`, only if it was due before this time:
   * otherwise the report about it may be lost with the connection.
   */
  confirmedUntil(): number;
  /** Request the job's cancellation; the token must allow it. */
  cancel(): void;
  /** Stop watching; no callback is called afterwards. */
  close(): void;
}

/** Watch one job until `close()`. The watch continues after the job has finished, because a job can be redriven. */
export function watchJob<Result = unknown>(
  options: WatchOptions,
  onSnapshot: (snapshot: Snapshot<Result>) => void,
): Watch;
