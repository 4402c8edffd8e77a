import type { Snapshot, WatchError } from "./watch.js";

/** The element `<headway-job token="…" url="…">label</headway-job>`. Importing this module defines it. */
export class HeadwayJob extends HTMLElement {
  static readonly observedAttributes: string[];
  token: string | null;
  /** The notifier's public URL; not needed if a submitter serves this module. */
  url: string | null;
  /** The newest snapshot, null before the first. */
  readonly snapshot: Snapshot | null;
  /** Why the job cannot be watched or cancelled; null once that has changed. */
  readonly error: WatchError | null;
  /** Request the job's cancellation; the token must allow it. */
  cancel(): void;
}

export interface HeadwayJobEventMap {
  /** A newer snapshot. */
  "headway-change": CustomEvent<Snapshot>;
  /** The job has finished: its last snapshot. */
  "headway-end": CustomEvent<Snapshot>;
  /** Why the job cannot be watched or cancelled: the codes of `watchJob`, `no_token` and `no_url`. */
  "headway-error": CustomEvent<WatchError>;
}

declare global {
  interface HTMLElementTagNameMap {
    "headway-job": HeadwayJob;
  }
  interface GlobalEventHandlersEventMap extends HeadwayJobEventMap {}
}
