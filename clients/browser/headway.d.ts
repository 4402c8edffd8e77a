/** A moment as RFC 3339 in UTC with milliseconds: `2026-01-01T00:00:00.000Z`. */
export type Time = string;

export type JobStatus = "queued" | "running" | "retrying" | "succeeded" | "failed" | "cancelled";

/** How far a job is; `total` and `percent` are null when nobody knows how much there is. */
export interface Progress {
  readonly current: number;
  readonly total: number | null;
  /** 0 to 100 */
  readonly percent: number | null;
  readonly unit: string | null;
  readonly message: string | null;
}

/** Why a job failed, fit for its user. */
export interface JobError {
  readonly type: string;
  readonly message: string;
}

/** The whole state of a job at one version; a newer one replaces it. `Result` is what the job returns. */
export interface Snapshot<Result = unknown> {
  readonly id: string;
  readonly kind: string;
  readonly status: JobStatus;
  /** Only ever rises; 0 as long as the server has no record. */
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
  /** Set once the job has ended. */
  readonly finished_at: Time | null;
  /** When a queued or retrying job is to start. */
  readonly due_at: Time | null;
  /** Until when a worker holds the job, unless it renews that. */
  readonly lease_until: Time | null;
  readonly expires_at: Time;
}

export type ConnectionState = "connecting" | "live" | "reconnecting" | "refused";

/** What caused a change of the connection's state. */
export interface ConnectionDetail {
  readonly code: number;
  readonly reason: string;
}

/** Those of the client and of the server; a newer server may tell others. */
export type ErrorCode =
  | "invalid_token"
  | "token_expired"
  | "origin_not_allowed"
  | "refused"
  | "unknown"
  | "too_many_watches"
  | "forbidden"
  | "unavailable"
  | (string & {});

/** Why a job cannot be seen, or not be cancelled (`forbidden`, `unavailable`). */
export interface WatchError {
  readonly code: ErrorCode;
  readonly message: string;
}

export interface WatchOptions {
  /** The notifier's public address. */
  url: string;
  /** The job's watch token. */
  token: string;
  onConnection?: (state: ConnectionState, detail?: ConnectionDetail) => void;
  onError?: (error: WatchError) => void;
}

export interface Watch {
  /** The job's id; null when the token is none. */
  readonly id: string | null;
  /** The server's clock, in milliseconds. */
  now(): number;
  /** Ask for the job's cancellation; the token must allow it. */
  cancel(): void;
  close(): void;
}

/** Watch one job until `close()`; its end does not end the watch, since a job can be run again. */
export function watchJob<Result = unknown>(
  options: WatchOptions,
  onSnapshot: (snapshot: Snapshot<Result>) => void,
): Watch;

/** `<headway-job token="…" url="…">label</headway-job>` shows one job live; importing this module defines it. */
export class HeadwayJob extends HTMLElement {
  static readonly observedAttributes: string[];
  token: string | null;
  /** The notifier's public address; not needed where the submitter serves this module. */
  url: string | null;
  /** The newest snapshot, null before the first. */
  readonly snapshot: Snapshot | null;
  /** Ask for the job's cancellation; the token must allow it. */
  cancel(): void;
}

export interface HeadwayJobEventMap {
  /** Each newer snapshot. */
  "headway-change": CustomEvent<Snapshot>;
  /** The job has ended: its last snapshot. */
  "headway-end": CustomEvent<Snapshot>;
  /** Why the job cannot be seen: the codes of `watchJob`, `no_token` and `no_url`. */
  "headway-error": CustomEvent<WatchError>;
}

declare global {
  interface HTMLElementTagNameMap {
    "headway-job": HeadwayJob;
  }
  interface GlobalEventHandlersEventMap extends HeadwayJobEventMap {}
}
