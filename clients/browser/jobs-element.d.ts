import type { Snapshot, WatchError } from "./watch.js";
import type { JobListState } from "./watch-jobs.js";

/** The element `<headway-jobs token="…" url="…">label</headway-jobs>`. Importing this module defines it. */
export class HeadwayJobs extends HTMLElement {
  static readonly observedAttributes: string[];
  /** The token of a list; set another one when it has expired. */
  token: string | null;
  /** An address of your site that answers `{"token": "…"}`, at the start and before the token expires. */
  src: string | null;
  /** The notifier's public URL; not needed if a submitter serves this module. */
  url: string | null;
  /** The snapshots of the rows, newest job first; null until the list has been received. */
  readonly jobs: readonly Snapshot[] | null;
  /** Why the list cannot be shown; null once that has changed. */
  readonly error: WatchError | null;
  /** Load older jobs. */
  more(): Promise<void> | undefined;
  /** Show the newer jobs that wait. */
  showNew(): void;
  /** Request the cancellation of a job; the token must allow it. */
  cancel(id: string): void;
}

export interface HeadwayJobsEventMap {
  /** The list has changed. */
  "headway-list": CustomEvent<JobListState>;
}

declare global {
  interface HTMLElementTagNameMap {
    "headway-jobs": HeadwayJobs;
  }
  interface GlobalEventHandlersEventMap extends HeadwayJobsEventMap {}
}
