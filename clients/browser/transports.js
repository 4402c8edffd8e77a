/**
 * Three transports with one interface: WebSocket, event stream and long poll.
 *
 * A transport subscribes to all of `registry.wantedJobs` when it opens, and to further jobs with `subscribe()`. Only the
 * WebSocket also subscribes to `registry.lists`. A transport calls `onMessage` with messages in the format of the
 * WebSocket: `{hello}`, `{job}`, `{log}`, `{list}` and `{error}`. A hello proves that the transport works, and is repeated. It calls
 * `onClose` once, when it fails or has received nothing for too long, and nothing after `close()`.
 */

import { parseMessage } from "./json.js";
import { SilenceTimer } from "./silence-timer.js";

const SUBSCRIBE_DEBOUNCE_MS = 30; // jobs that a page watches in quick succession share one request
const MAX_GROUP = 10; // the server names the bad ones of so few tokens
const POLL_WAIT_S = 25;
const POLL_INTERVAL_MS = 250;
const POLL_TIMEOUT_MS = 5_000; // after the wait
const FIRST_BYTE_TIMEOUT_MS = 3_000; // of a stream: a buffering proxy delivers nothing before its end
const SILENCE_S = 50; // of a stream: the server sends a comment every 20 s
const PROBE_TIMEOUT_MS = 3_000;
const FINISHED_RECHECK_MS = 60_000; // before jobs that have all finished are requested again: a job can be redriven

class Transport {
  #url;
  #onClose;
  #silence = new SilenceTimer(() => this.fail({ code: 1006, reason: "The server sent nothing in time." }));

  constructor(url, registry, { onMessage, onClose }) {
    this.#url = url;
    this.registry = registry;
    this.onMessage = onMessage;
    this.#onClose = onClose;
  }

  /** Fail if nothing is received for longer than this. */
  allowSilence(limitMs) {
    this.#silence.restart(limitMs);
  }

  checkSilence() {
    this.#silence.check();
  }

  /** Find out whether the transport still works: request something that the server answers at once. */
  probe() {
    this.#silence.shorten(PROBE_TIMEOUT_MS);
  }

  async cancel({ id, cancelToken }) {
    const onError = (code, message) => this.onMessage({ error: { code, message, job_id: id, cancel: true } });
    try {
      const headers = { Authorization: `Bearer ${cancelToken}` };
      const response = await this.post(`/live/jobs/${id}/cancel`, { headers });
      const text = await response.text();
      if (response.ok) return this.onMessage(parseMessage(`{"job":${text}}`));
      const { code, detail } = JSON.parse(text);
      onError(code, detail);
    } catch {
      onError("unavailable", "The server did not answer; try again.");
    }
  }

  post(path, options) {
    return fetch(this.#url + path, { method: "POST", cache: "no-store", ...options });
  }

  /** Close the transport and report why. */
  fail(detail) {
    const onClose = this.#onClose;
    this.close();
    onClose(detail);
  }

  close() {
    this.#silence.restart(Infinity);
    this.onMessage = this.#onClose = () => {};
  }
}

export class WebSocketTransport extends Transport {
  #socket;
  #hello = {}; // the last one; older servers do not repeat it, and a server that restarts says in it when to reconnect

  constructor(url, registry, callbacks) {
    super(url, registry, callbacks);
    try {
      this.#socket = new WebSocket(`${url.replace(/^http/, "ws")}/live`);
    } catch (error) {
      // An https: page may not open a ws: socket.
      queueMicrotask(() => this.fail({ code: 1006, reason: error.message }));
      return;
    }
    this.#socket.onopen = () => this.subscribe([...registry.wantedJobs, ...registry.lists]);
    this.#socket.onmessage = ({ data }) => this.#onSocketMessage(parseMessage(data));
    this.#socket.onclose = ({ code, reason }) => this.fail({ code, reason, reconnect_s: this.#hello.reconnect_s });
  }

  #onSocketMessage(message) {
    this.#hello = message.hello ?? this.#hello;
    this.allowSilence(this.#hello.silence_s * 1000 || Infinity);
    this.onMessage(message);
  }

  subscribe(watched) {
    for (const each of watched) this.#send(each.subscribeMessage());
  }

  unsubscribe(watched) {
    this.#send(watched.unsubscribeMessage());
  }

  /** Cancel a job. The server checks the token that watches it, so another one needs a request of its own. */
  cancel(job) {
    if (job.cancelToken === job.token) this.#send({ cancel: job.id });
    else super.cancel(job);
  }

  /** Request a job without its version, which the server answers with a snapshot, or a list. */
  probe() {
    const watched = [...this.registry.wantedJobs, ...this.registry.lists].find(({ rejected }) => !rejected);
    if (!watched) return;
    this.#send({ ...watched.subscribeMessage(), version: undefined });
    super.probe();
  }

  close() {
    super.close();
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }
}

/** The base of event stream and long poll: one request at a time, repeated when the set of jobs grows. */
class HttpTransport extends Transport {
  #request = new AbortController(); // of the current request
  #answered = false; // whether the server has told which jobs it rejects
  #requestTimer;

  constructor(url, registry, callbacks) {
    super(url, registry, callbacks);
    this.subscribe();
  }

  subscribe() {
    this.schedule(SUBSCRIBE_DEBOUNCE_MS);
  }

  /** Do nothing: messages about the job are ignored, and the next request omits it. */
  unsubscribe() {}

  probe() {
    this.subscribe();
    super.probe();
  }

  close() {
    super.close();
    clearTimeout(this.#requestTimer);
    this.#request.abort();
  }

  /** Send the next request after a delay. Nothing is received until then. */
  schedule(delayMs) {
    clearTimeout(this.#requestTimer);
    this.allowSilence(Infinity);
    this.#requestTimer = setTimeout(() => this.#sendRequest(), delayMs);
  }

  async #sendRequest() {
    this.#request.abort();
    const { signal } = (this.#request = new AbortController());
    const jobs = this.registry.wantedJobs.filter((job) => !this.#answered || !job.rejected);
    if (!jobs.length) return this.schedule(FINISHED_RECHECK_MS);
    try {
      await this.receive(jobs, { signal });
    } catch (error) {
      if (!signal.aborted) this.fail({ code: error.status ?? 1006, reason: error.message });
    }
  }

  sendHello(now) {
    this.#answered = true;
    this.onMessage({ hello: { now, silence_s: SILENCE_S } });
  }

  /**
   * Request these jobs. Return null if the server rejects the request because of its tokens, after reporting which ones.
   *
   * The server rejects a request with too many bad tokens as a whole, without naming them. Small groups show which ones.
   */
  async postWatches(path, jobs, options) {
    const headers = { "Content-Type": "application/json", ...options.headers };
    const body = JSON.stringify({ watch: jobs.map((job) => job.subscribeMessage()) });
    const response = await this.post(path, { ...options, headers, body });
    if (response.ok) return response;
    const { status } = response;
    const { code, detail } = await response.json().catch(() => ({}));
    if (status !== 401 || !code) throw Object.assign(new Error(detail ?? `The server answered ${status}.`), { status });
    if (jobs.length > MAX_GROUP) return this.#findRejected(jobs, options);
    for (const { id } of jobs) this.onMessage({ error: { code, message: detail, job_id: id } });
    return null;
  }

  /** Request the jobs in small groups, then all but the rejected ones. This is no hello: it proves no stream. */
  async #findRejected(jobs, { signal }) {
    for (let start = 0; start < jobs.length; start += MAX_GROUP) {
      this.allowSilence(POLL_TIMEOUT_MS);
      const response = await this.postWatches("/live/jobs", jobs.slice(start, start + MAX_GROUP), { signal });
      if (response) this.receiveJobs(parseMessage(await response.text()));
    }
    this.#answered = true;
    this.#request.abort(); // the caller has nothing more to do
    this.subscribe();
    return null;
  }

  receiveJobs({ jobs = [], logs = [], errors = [] }) {
    for (const job of jobs) this.onMessage({ job });
    for (const log of logs) this.onMessage({ log });
    for (const error of errors) this.onMessage({ error });
  }
}

/** Server-Sent Events over fetch: an EventSource cannot send tokens in a body, and does not report why it failed. */
export class EventStreamTransport extends HttpTransport {
  async receive(jobs, { signal }) {
    this.allowSilence(FIRST_BYTE_TIMEOUT_MS);
    const response = await this.postWatches("/live/events", jobs, { signal });
    if (signal.aborted) return;
    if (!response) {
      this.sendHello();
    } else {
      for await (const event of events(response.body)) {
        this.allowSilence(SILENCE_S * 1000);
        this.#onEvent(event);
      }
    }
    if (signal.aborted) return;
    const unfinished = this.registry.wantedJobs.filter((job) => !job.finished && !job.rejected);
    if (unfinished.some((job) => jobs.includes(job))) this.fail({ code: 1006, reason: "The stream ended." });
    else this.schedule(unfinished.length ? SUBSCRIBE_DEBOUNCE_MS : FINISHED_RECHECK_MS);
  }

  #onEvent({ "": now, event, data, retry }) {
    if (now) this.sendHello(now);
    if (retry) this.fail({ code: 1012, reason: "restarting", reconnect_s: retry / 1000 });
    if (["job", "log", "error"].includes(event)) this.onMessage(parseMessage(`{"${event}":${data}}`));
  }
}

/** Long polling. The first request does not wait, so its response serves as the hello. */
export class LongPollTransport extends HttpTransport {
  #waitS = 0;

  async receive(jobs, { signal }) {
    this.allowSilence(this.#waitS * 1000 + POLL_TIMEOUT_MS);
    const headers = { Prefer: `wait=${this.#waitS}` };
    const response = await this.postWatches("/live/jobs", jobs, { signal, headers });
    if (signal.aborted) return;
    const message = response ? parseMessage(await response.text()) : {};
    this.sendHello(message.now);
    this.receiveJobs(message);
    this.#waitS = POLL_WAIT_S;
    if (!signal.aborted) this.schedule(POLL_INTERVAL_MS);
  }

  probe() {
    this.#waitS = 0;
    super.probe();
  }
}

/** Yield the events of a stream as objects of their fields. A comment is a field with an empty name. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    const blocks = (rest + chunk.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
  }
}
