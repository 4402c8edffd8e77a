/** A simulated page for the browser client in Node.js: its clocks, timers, events, WebSockets and requests. */

const FIELDS = { id: "00000000-0000-4000-8000-000000000001", kind: "countdown", status: "queued", finished_at: null };
const timers = new Map(); // by the millisecond of simulated time when they are due
const clock = { now: 0, sleptMs: 0 };
const listeners = {}; // by the type of event

/** The WebSockets and requests that were opened, each with `kind`, `openedAt`, and `closedAt` once the page has closed it. */
export const transports = [];

/** A test may answer requests: `answer(path, tokens, url)` returns a response. */
export const server = { answer: null };

/** Return the token of a job, which is given by a number. */
export function tokenOf(number, extra = {}) {
  const sub = `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`;
  return `a.${btoa(JSON.stringify({ sub, exp: 4e9, ...extra }))}.b`;
}

export class FakeWebSocket {
  static OPEN = 1;
  kind = "WebSocket";
  openedAt = clock.now;
  readyState = 0;
  sent = [];

  constructor() {
    transports.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
    this.closedAt ??= clock.now;
  }

  /** Open the socket, and receive a hello. */
  accept(hello = { silence_s: 50 }) {
    this.readyState = FakeWebSocket.OPEN;
    this.onopen?.();
    this.receive({ hello: { now: new Date(Date.now()).toISOString(), ...hello } });
  }

  receive(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  receiveJob(version, fields = {}) {
    this.receive({ job: { ...FIELDS, version, ...fields } });
  }

  /** Lose the connection with a close code. */
  lose(code, reason = "") {
    this.readyState = 3;
    this.closedAt = clock.now;
    this.onclose?.({ code, reason });
  }
}

/** Let time pass, and run the timers that become due. */
export async function pass(ms) {
  for (const end = clock.now + ms; clock.now < end; clock.now++) {
    for (const timer of timers.get(clock.now) ?? []) if (!timer.cleared) timer.callback();
    timers.delete(clock.now);
    await null;
  }
}

/** Stop all timers for a time. With `asleep`, the machine sleeps, and the monotonic clock stands still, too. */
export function stall(ms, { asleep = false } = {}) {
  if (asleep) {
    clock.sleptMs += ms;
    return;
  }
  const late = [...timers.keys()].filter((due) => due < clock.now + ms).sort((a, b) => a - b);
  clock.now += ms;
  for (const due of late) {
    timers.set(clock.now, [...timers.get(due), ...(timers.get(clock.now) ?? [])]);
    timers.delete(due);
  }
}

/** Dispatch an event of the window or the document, such as "online". */
export function dispatch(type) {
  for (const listener of [...(listeners[type] ?? [])]) listener();
}

/** Return the last WebSocket or request that was opened. */
export function last() {
  return transports.at(-1);
}

Date.now = () => 1_767_225_600_000 + clock.now + clock.sleptMs;
Object.defineProperty(globalThis, "performance", { value: { timeOrigin: 1_767_225_600_000, now: () => clock.now } });
Object.defineProperty(globalThis, "navigator", { value: {} });
Object.assign(globalThis, {
  WebSocket: FakeWebSocket,
  document: { hidden: false, baseURI: "http://page.test/" },
  origin: "http://page.test",
  reportError: console.error,
  addEventListener(type, listener, { signal }) {
    (listeners[type] ??= new Set()).add(listener);
    signal.addEventListener("abort", () => listeners[type].delete(listener));
  },
  setTimeout(callback, delayMs = 0, ...details) {
    const timer = { callback: () => callback(...details), cleared: false };
    const due = clock.now + Math.max(1, Math.ceil(delayMs));
    if (!timers.has(due)) timers.set(due, []);
    timers.get(due).push(timer);
    return timer;
  },
  clearTimeout(timer) {
    if (timer) timer.cleared = true;
  },
  fetch(url, { signal, body } = {}) {
    const tokens = JSON.parse(body ?? "{}").watch?.map(({ watch }) => watch);
    const request = { kind: new URL(url).pathname, openedAt: clock.now, tokens };
    transports.push(request);
    const answer = server.answer?.(request.kind, tokens, url);
    if (answer) return Promise.resolve(answer);
    return new Promise((resolve, reject) => {
      Object.assign(request, { resolve, reject });
      signal?.addEventListener("abort", () => {
        request.closedAt = clock.now;
        reject(signal.reason);
      });
    });
  },
});
