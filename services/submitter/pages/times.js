/** The elapsed and the remaining time of a job, from all snapshots that the page has seen. */

const MIN_ESTIMATE_PERCENT = 5; // with less progress the remaining time cannot be estimated

const digits = new Intl.NumberFormat(undefined, { useGrouping: false });
const twoDigits = new Intl.NumberFormat(undefined, { minimumIntegerDigits: 2 });

export class JobTimes {
  #generation = null;
  #firstStart = null; // in ms; null if the page has not seen the first attempt
  #delivery = null; // the start of the current delivery: a snapshot has no earlier one
  #baseline = null; // the time in ms and the percentage that an estimate counts from

  /** Add a newer snapshot. */
  add(snapshot) {
    const { generation, attempt, started_at: started, earlier_attempts: earlier = [], redriven_at: redriven } = snapshot;
    if (generation !== this.#generation) [this.#generation, this.#firstStart, this.#delivery] = [generation, null, null];
    const first = attempt === 1 ? started : earlier.findLast((other) => other.attempt === 1 && !(other.started_at < redriven))?.started_at;
    if (first) this.#firstStart ??= Date.parse(first);
    if (!started) return;
    if (started !== this.#delivery) {
      // A later delivery may continue from a checkpoint, so its pace is known only from the first progress seen.
      const isFirst = attempt === 1 && this.#delivery === null;
      this.#baseline = isFirst ? { time: Date.parse(started), percent: 0 } : null;
      this.#delivery = started;
    }
    const percent = snapshot.progress?.percent ?? null;
    if (percent !== null) this.#baseline ??= { time: progressTime(snapshot), percent };
  }

  /**
   * Return the elapsed time in ms and what it counts from; null if no worker has started the job.
   *
   * @returns {?{ms: number, since: "start" | "restart" | "submission"}}
   */
  elapsed({ attempt, started_at: started, submitted_at: submitted, redriven_at: redriven, finished_at: finished }, now) {
    if (!started && attempt < 2 && this.#firstStart === null) return null;
    const since = this.#firstStart !== null ? "start" : redriven ? "restart" : "submission";
    const ms = (finished ? Date.parse(finished) : now) - (this.#firstStart ?? Date.parse(redriven ?? submitted));
    return { ms: Math.max(0, ms), since };
  }

  /** Return when the first attempt that is known started, in ms; null if no worker has started the job. */
  started({ started_at: started }) {
    return this.#firstStart ?? (started ? Date.parse(started) : null);
  }

  /** Return the estimated remaining time of a running attempt in ms; null if it is unknown or a report is overdue. */
  remaining(snapshot, now) {
    const { status, progress } = snapshot;
    const percent = progress?.percent ?? null;
    if (status !== "running" || percent === null || !this.#baseline) return null;
    const done = percent - this.#baseline.percent;
    if (done < MIN_ESTIMATE_PERCENT) return null;
    const time = progressTime(snapshot);
    const ms = ((time - this.#baseline.time) / done) * (100 - percent) - (now - time);
    return ms > 0 ? ms : null;
  }
}

/** Return when the progress of a snapshot last rose, in ms. A server of version 0.1 knows only the last change of all. */
function progressTime({ advanced_at: advanced, updated_at: updated }) {
  return Date.parse(advanced ?? updated);
}

/** Return a duration as on a clock, such as "0:18" or "1:02:03". */
export function clockText(ms) {
  const seconds = Math.floor(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const parts = hours ? [hours, minutes, seconds % 60] : [minutes, seconds % 60];
  return parts.map((value, index) => (index ? twoDigits : digits).format(value)).join(":");
}
