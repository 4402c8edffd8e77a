import type { DetailedHTMLProps, HTMLAttributes, ReactElement, ReactNode, Ref } from "react";
import type { HeadwayJob as HeadwayJobElement } from "./element.js";
import type { HeadwayJobs as HeadwayJobsElement } from "./jobs-element.js";
import type { ConnectionState, Snapshot, WatchError } from "./watch.js";
import type { JobListState, WatchJobsOptions } from "./watch-jobs.js";

export type { ConnectionState, JobError, JobStatus, Progress, Snapshot, WatchError } from "./watch.js";
export type { JobListState, JobsFilter, WatchJobsOptions } from "./watch-jobs.js";
export type { HeadwayJobElement, HeadwayJobsElement };

/** The properties of `<HeadwayJob>`: its own, and those of every HTML element. `Result` is the type of the result. */
export interface HeadwayJobProps<Result = unknown>
  extends Omit<HTMLAttributes<HeadwayJobElement>, "onChange" | "onError"> {
  /** The job's watch token; set another one to show another job. */
  token: string | null | undefined;
  /** The notifier's public URL. */
  url: string;
  /** Called with each newer snapshot. */
  onChange?: (snapshot: Snapshot<Result>) => void;
  /** Called with the last snapshot when the job has finished. */
  onEnd?: (snapshot: Snapshot<Result>) => void;
  /** Called when the job cannot be watched or cancelled. */
  onError?: (error: WatchError) => void;
  /** The label. If it is empty, the job's name or kind is shown. */
  children?: ReactNode;
  ref?: Ref<HeadwayJobElement>;
}

/** The element `<headway-job>`, with callbacks that also work after hydration. */
export function HeadwayJob<Result = unknown>(props: HeadwayJobProps<Result>): ReactElement;

/** The state of a watched job. */
export interface JobState<Result = unknown> {
  /** The newest snapshot, null before the first. */
  readonly job: Snapshot<Result> | null;
  /** Why the job cannot be watched or cancelled; null once a snapshot arrives. */
  readonly error: WatchError | null;
  readonly connection: ConnectionState;
  /** Request the job's cancellation; the token must allow it. */
  readonly cancel: () => void;
}

/** Watch a job while the component is mounted. Without a token, nothing is watched. */
export function useJob<Result = unknown>(token: string | null | undefined, options: { url: string }): JobState<Result>;

/** The state of a list of jobs, and what its user can do. */
export interface JobsState<Result = unknown> extends JobListState<Result> {
  /** Load older jobs. */
  readonly more: () => void;
  /** Request a job's cancellation; the token must allow it. */
  readonly cancel: (id: string) => void;
  /** Hold the rows as they are, for example while a user points at them, or release them. */
  readonly hold: (held: boolean) => void;
}

/** Watch a list of jobs, newest first, while the component is mounted. Without a token, nothing is watched. */
export function useJobs<Result = unknown>(
  token: WatchJobsOptions["token"] | null | undefined,
  options: Omit<WatchJobsOptions, "token"> & { url: string },
): JobsState<Result>;

/** The attributes of `<headway-jobs>` in JSX, once the page has imported `headway-live/jobs`. */
export interface HeadwayJobsAttributes extends HTMLAttributes<HeadwayJobsElement> {
  token?: string | null;
  src?: string | null;
  url?: string | null;
  owner?: string;
  tag?: string;
  kind?: string;
  status?: string;
  limit?: number;
  link?: string;
  "onheadway-list"?: (event: CustomEvent<JobListState>) => void;
  "onheadway-end"?: (event: CustomEvent<Snapshot>) => void;
  "onheadway-error"?: (event: CustomEvent<WatchError>) => void;
}

/** The attributes of `<headway-job>` in JSX. */
export interface HeadwayJobAttributes extends HTMLAttributes<HeadwayJobElement> {
  token?: string | null;
  url?: string | null;
  "onheadway-change"?: (event: CustomEvent<Snapshot>) => void;
  "onheadway-end"?: (event: CustomEvent<Snapshot>) => void;
  "onheadway-error"?: (event: CustomEvent<WatchError>) => void;
}

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "headway-job": DetailedHTMLProps<HeadwayJobAttributes, HeadwayJobElement>;
      "headway-jobs": DetailedHTMLProps<HeadwayJobsAttributes, HeadwayJobsElement>;
    }
  }
}
