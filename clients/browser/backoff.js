/**
 * How long the browser client waits before it connects again.
 *
 * When a server restarts, all its clients lose their connections at once. The delays are random, so that they return
 * spread over time.
 */

const RECONNECT_MS = { base: 2_000, max: 4_000 };
const OVERLOADED_MS = { base: 2_000, max: 10_000 };
const RETRY_MS = { base: 2_000, max: 60_000 };
const POLL_MS = { base: 3_000, max: 60_000 };
const UPGRADE_MS = { base: 15_000, max: 240_000 };
const OVERLOAD_CODES = new Set([1013, 503]);

/**
 * Return the delay before a connection is opened again, after failures in a row, and with the last close code or status.
 * A server that restarts may have asked for less than a second: it closes its connections one after the other. Any other
 * time that it says causes the usual delays.
 */
export function reconnectDelayMs(failures, { code, reconnect_s }) {
  const limits = OVERLOAD_CODES.has(code) ? OVERLOADED_MS : RECONNECT_MS;
  return Math.random() * backoff(limits, reconnect_s < 1 ? -2 : failures); // -2: up to half a second
}

/** Return the delay before a page's own server is asked again, after failures in a row. */
export function retryDelayMs(failures) {
  return backoff(RETRY_MS, failures) * (1 - Math.random() / 2);
}

/** Return the delay before the next poll, after failures in a row. */
export function pollDelayMs(failures) {
  return backoff(POLL_MS, failures) * (0.75 + Math.random() / 2);
}

/** Return the delay before better transports are tried again, after some attempts. */
export function upgradeDelayMs(attempts) {
  return backoff(UPGRADE_MS, attempts) * (1 - Math.random() / 4);
}

function backoff({ base, max }, failures) {
  return Math.min(max, base * 2 ** failures);
}
