/**
 * Three ways to hear from a notifier, alike to whoever uses them.
 *
 * Each asks for all of `desk.jobs` when it opens, and again for those that it is told to `ask` for. It tells what it hears
 * as a WebSocket's messages, `{hello}`, `{job}` and `{error}`: a hello proves that the way is open, and may come again. It
 * tells once that it is `lost`, and nothing after `close()`.
 */

const GATHER_MS = 30; // jobs that a page begins to watch one after the other are one request
const POLL_WAIT_S = 25;
const POLL_PAUSE_MS = 250;
const FIRST_BYTE_MS = 3_000; // of a stream, or else something on the way waits for its end
const SILENCE_MS = 50_000; // a stream gives a sign of life every 20 s, a poll is answered within 25 s
const REST_MS = 60_000; // until a stream that has nothing more to tell is asked for again: jobs can be run again

export class Socket {
  #socket;

  constructor(url, desk, { hear, lost }) {
    try {
      this.#socket = new WebSocket(`${url.replace(/^http/, "ws")}/live`);
    } catch (error) {
      // A page of https: may not open a socket to http:.
      queueMicrotask(() => lost({ code: 1006, reason: error.message }));
      return;
    }
    this.#socket.onopen = () => this.ask(desk.jobs);
    this.#socket.onmessage = ({ data }) => hear(JSON.parse(data));
    this.#socket.onclose = ({ code, reason }) => lost({ code, reason });
  }

  ask(jobs) {
    for (const job of jobs) this.#send(job.ask());
  }

  drop(job) {
    this.#send({ unwatch: job.id });
  }

  cancel(job) {
    this.#send({ cancel: job.id });
  }

  close() {
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }
}

/** What streams and polls have in common: one request in flight, made anew when there is more to ask for. */
class Fetching {
  #url;
  #lost;
  #flight = new AbortController();
  #greeted = false;
  #next; // timer of the next request
  #silence;

  constructor(url, desk, { hear, lost }) {
    this.#url = url;
    this.#lost = lost;
    this.desk = desk;
    this.hear = hear;
    this.ask();
  }

  ask() {
    this.askIn(GATHER_MS);
  }

  /** What still comes of a job is for nobody; the next request leaves it out. */
  drop() {}

  async cancel({ id, token }) {
    try {
      const response = await this.post(`/live/jobs/${id}/cancel`, { headers: { Authorization: `Bearer ${token}` } });
      const answer = await response.json();
      if (response.ok) this.hear({ job: answer });
      else this.hear({ error: { code: answer.code, message: answer.detail, job_id: id } });
    } catch {
      this.hear({ error: { code: "unavailable", message: "The server did not answer; try again.", job_id: id } });
    }
  }

  close() {
    clearTimeout(this.#next);
    clearTimeout(this.#silence);
    this.#flight.abort();
    this.hear = this.#lost = () => {};
  }

  askIn(ms) {
    clearTimeout(this.#next);
    clearTimeout(this.#silence);
    this.#next = setTimeout(() => this.#fly(), ms);
  }

  async #fly() {
    this.#flight.abort();
    const { signal } = (this.#flight = new AbortController());
    const jobs = this.desk.jobs.filter((job) => !this.#greeted || !job.refused);
    if (!jobs.length) return this.askIn(REST_MS);
    try {
      await this.run(jobs, { signal });
    } catch (error) {
      if (!signal.aborted) this.lost({ code: error.status ?? 1006, reason: error.message });
    }
  }

  lost(detail) {
    const lost = this.#lost;
    this.close();
    lost(detail);
  }

  greet(now) {
    this.#greeted = true;
    this.hear({ hello: { now } });
  }

  /** Give the server time until it is heard next. */
  allow(ms) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.lost({ code: 1006, reason: "Nothing came." }), ms);
  }

  /** Ask for these jobs; null when the server opens none of them, which it has told then. */
  async request(path, jobs, options) {
    const headers = { "Content-Type": "application/json", ...options.headers };
    const body = JSON.stringify({ watch: jobs.map((job) => job.ask()) });
    const response = await this.post(path, { ...options, headers, body });
    if (response.ok) return response;
    const { code, detail } = await response.json().catch(() => ({}));
    if (response.status !== 401 || !code) throw Object.assign(new Error(detail ?? "No answer."), { status: response.status });
    this.greet();
    for (const { id } of jobs) this.hear({ error: { code, message: detail, job_id: id } });
    return null;
  }

  post(path, options) {
    return fetch(this.#url + path, { method: "POST", cache: "no-store", ...options });
  }
}

/** Server-Sent Events by fetch, since an EventSource can neither send tokens safely nor tell why it fails. */
export class Stream extends Fetching {
  async run(jobs, { signal }) {
    this.allow(FIRST_BYTE_MS);
    const response = await this.request("/live/events", jobs, { signal });
    let restarting = false;
    if (response) {
      for await (const event of events(response.body)) {
        this.allow(SILENCE_MS);
        this.#take(event);
        restarting ||= "retry" in event;
      }
    }
    if (signal.aborted) return;
    const open = this.desk.jobs.filter((job) => !job.ended && !job.refused);
    if (restarting) this.lost({ code: 1012, reason: "restarting" });
    else if (!open.some((job) => jobs.includes(job))) this.askIn(open.length ? GATHER_MS : REST_MS);
    else this.lost({ code: 1006, reason: "The stream ended." });
  }

  #take({ "": now, event, data }) {
    if (now) this.greet(now);
    if (event === "job" || event === "error") this.hear({ [event]: JSON.parse(data) });
  }
}

/** The long poll. Its first request is answered at once, which is the hello. */
export class Poll extends Fetching {
  #headers = {};

  async run(jobs, { signal }) {
    this.allow(SILENCE_MS);
    const response = await this.request("/live/jobs", jobs, { signal, headers: this.#headers });
    if (response) this.#take(await response.json());
    this.#headers = { Prefer: `wait=${POLL_WAIT_S}` };
    if (!signal.aborted) this.askIn(POLL_PAUSE_MS);
  }

  #take({ now, jobs, errors }) {
    this.greet(now);
    for (const job of jobs) this.hear({ job });
    for (const error of errors) this.hear({ error });
  }
}

/** Read the events of a stream as objects of their fields; a comment's field has no name. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
  }
}
