/**
 * The position of a waiting job in the queue.
 *
 * The server does not push it, because each job that starts changes the positions of all others. It is requested only while
 * a user can see the job.
 */

const FIRST_DELAY_MS = 1_000; // most jobs start sooner
const INTERVAL_MS = 10_000;

export class QueuePosition {
  #url;
  #getToken;
  #onAnswer;
  #dueAt = null; // of the next request, on the monotonic clock; null while the job does not wait
  #answer = null;
  #refused = null; // the token, by a server that does not accept it, or knows no positions

  /**
   * @param {string} url the notifier's public base URL
   * @param {() => ?string} getToken returns the watch token; without one, nothing is requested
   * @param {() => void} onAnswer called after each request
   */
  constructor(url, getToken, onAnswer) {
    this.#url = new URL(url, document.baseURI).href.replace(/\/*$/, "");
    this.#getToken = getToken;
    this.#onAnswer = onAnswer;
  }

  /**
   * Return the newest position, and request it if that is due. Call this at least every second.
   *
   * @param {?string} id the id of the job; null unless it waits where a user can see it
   * @returns {?{before: ?number, complete: boolean}} null if the position is unknown
   */
  poll(id) {
    if (!id || document.hidden) {
      this.#dueAt = this.#answer = null;
      return null;
    }
    this.#dueAt ??= performance.now() + FIRST_DELAY_MS;
    const token = this.#getToken();
    if (token && token !== this.#refused && performance.now() >= this.#dueAt) this.#request(id, token);
    return this.#answer;
  }

  async #request(id, token) {
    this.#dueAt = performance.now() + INTERVAL_MS;
    const signal = AbortSignal.timeout?.(INTERVAL_MS); // browsers before 2022 have none
    const options = { headers: { Authorization: `Bearer ${token}` }, cache: "no-store", signal };
    try {
      const response = await fetch(`${this.#url}/live/jobs/${id}/position`, options);
      this.#refused = [401, 403, 404].includes(response.status) ? token : null;
      this.#answer = response.ok ? await response.json() : null;
    } catch {
      this.#answer = null; // the state of the connection explains it
    }
    this.#onAnswer();
  }
}
