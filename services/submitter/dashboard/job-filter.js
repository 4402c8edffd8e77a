/** What a list of jobs shows: its filter, as the query of the URL has it. */

import { urlOf } from "/assets/router.js";

const HOUR_MS = 3_600_000;
const ENDED = ["succeeded", "failed", "cancelled"];
const CHART_HOURS = 24; // the current hour, which has only begun, is one of them

/** The ranges of time that can be chosen. */
export const RANGES = { "1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", all: "Any time" };

/** The filters that narrow a list beside its status, by their parameters in the URL. */
const NARROWING = ["kind", "owner", "tag", "attempts_min", "error_type", "range", "since", "until"];

export class JobFilter {
  #query;
  #now;

  /**
   * @param {URLSearchParams} query of the URL
   * @param {number} now the time from which a range counts back, in ms
   */
  constructor(query, now) {
    this.#query = query;
    this.#now = now;
  }

  /** Return the same filter at another time. */
  at(now) {
    return new JobFilter(this.#query, now);
  }

  /** The statuses of the jobs, none for all. */
  get statuses() {
    return this.get("status").split(",").filter(Boolean);
  }

  get tags() {
    return this.#query.getAll("tag");
  }

  get kind() {
    return this.get("kind");
  }

  /** Whether failures are shown in groups instead of a list. */
  get isGrouped() {
    return this.get("group") === "failures";
  }

  /** Whether the jobs are ordered by their end, because all have ended. */
  get isByEnd() {
    return this.statuses.length > 0 && this.statuses.every((status) => ENDED.includes(status));
  }

  /**
   * The key of RANGES. It is a day by default, but all times for jobs that have not ended: the oldest of those matter
   * most. "" if the range has other limits.
   */
  get range() {
    if (this.get("since") || this.get("until")) return "";
    const chosen = this.get("range");
    if (Object.hasOwn(RANGES, chosen)) return chosen;
    const isActive = this.statuses.length > 0 && !this.statuses.some((status) => ENDED.includes(status));
    return isActive ? "all" : "24h";
  }

  /** The limits of the time, as RFC 3339 texts; null for no limit. */
  get limits() {
    if (!this.range) return { since: this.get("since") || null, until: this.get("until") || null };
    return { since: startOf(this.range, this.#now), until: null };
  }

  /** The filter as `watchJobs` takes it. */
  get fields() {
    const { since, until } = this.limits;
    const fields = {
      status: this.statuses.length ? this.statuses : "",
      kind: this.kind,
      owner: this.get("owner"),
      tag: this.tags.length ? this.tags : "",
      attempts_min: Number(this.get("attempts_min")) || this.get("attempts_min"),
      error_type: this.get("error_type"),
      since,
      until,
    };
    return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
  }

  /** Whether any filter but the status is set. */
  get isNarrowed() {
    return NARROWING.some((name) => this.#query.has(name));
  }

  /** Return a parameter, "" if it is not set. */
  get(name) {
    return this.#query.get(name) ?? "";
  }

  /** Return whether another filter is set than these. */
  hasOther(...names) {
    return NARROWING.some((name) => !names.includes(name) && this.#query.has(name));
  }

  /** Return the URL of the list with some parameters changed; an array repeats one, and null or "" leaves it out. */
  href(changes = {}) {
    const query = new URLSearchParams(this.#query);
    for (const [name, values] of Object.entries(changes)) {
      query.delete(name);
      for (const value of [values].flat()) if (value) query.append(name, value);
    }
    return urlOf("jobs", { query });
  }

  /** Return the URL with another range of time. */
  hrefOfTime({ range = null, since = null, until = null }) {
    return this.href({ range, since, until });
  }

  /** The URL of the list with the same status and no other filter. */
  get clearedHref() {
    return urlOf("jobs", { query: { status: this.get("status") } });
  }
}

/**
 * Return the beginning of a range that ends now, null for all times.
 *
 * A day has the hours of the chart, which are those of the counts. The others are rounded, so that operators who look at
 * the same time share one list on the server.
 */
function startOf(range, now) {
  const hour = Math.floor(now / HOUR_MS) * HOUR_MS;
  const starts = { "1h": Math.floor((now - HOUR_MS) / 60_000) * 60_000, "24h": hour - (CHART_HOURS - 1) * HOUR_MS, "7d": hour - 7 * 24 * HOUR_MS };
  return Object.hasOwn(starts, range) ? new Date(starts[range]).toISOString() : null;
}

/** Return a range of time in the reader's zone, such as "Nov 29, 19:00 – 20:00". */
export function limitsText({ since, until }) {
  const format = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
  const [start, end] = [since, until].map((time) => new Date(time ?? NaN));
  const [hasStart, hasEnd] = [start, end].map((time) => !Number.isNaN(time.getTime()));
  if (hasStart && hasEnd && start <= end) return format.formatRange(start, end);
  if (hasStart) return `Since ${format.format(start)}`;
  return hasEnd ? `Until ${format.format(end)}` : "Other times";
}

/** The reader's time zone, such as "Europe/Berlin". */
export const timeZone = new Intl.DateTimeFormat().resolvedOptions().timeZone;
