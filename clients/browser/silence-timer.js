/** Detects silence, also where timers are late: browsers delay those of hidden pages, and a sleeping machine stops them. */

const CHECK_INTERVAL_MS = 2_000;
const CONFIRM_MS = 200; // a page that was busy or asleep may run its timers before it receives the messages that wait

export class SilenceTimer {
  #onSilence;
  #limitMs = Infinity;
  #since = [0, 0]; // by the user's clock, which may be set, and by the monotonic one, which may stop while a machine sleeps
  #exceededAt = null; // when a check first found the limit exceeded
  #timer;

  constructor(onSilence) {
    this.#onSilence = onSilence;
  }

  /** Start again, because something was received; from now on, silence may last this long. */
  restart(limitMs) {
    this.#limitMs = limitMs;
    this.#since = [Date.now(), performance.now()];
    this.#exceededAt = null;
    this.check();
  }

  /** Allow only this much more silence. */
  shorten(limitMs) {
    this.#limitMs = Math.min(this.#limitMs, this.#silentMs() + limitMs);
    this.check();
  }

  /** Check the limit: called by timers, and by events that wake the page. */
  check = () => {
    clearTimeout(this.#timer);
    const restMs = this.#limitMs - this.#silentMs();
    if (restMs === Infinity) return;
    if (restMs > 0) this.#timer = setTimeout(this.check, Math.min(restMs, CHECK_INTERVAL_MS));
    else if (performance.now() - (this.#exceededAt ??= performance.now()) >= CONFIRM_MS) this.#onSilence();
    else this.#timer = setTimeout(this.check, CONFIRM_MS);
  };

  #silentMs() {
    const [date, moment] = this.#since;
    return Math.max(Date.now() - date, performance.now() - moment);
  }
}
