/** Requests of the dashboard to the submitter and the notifier. What fails has a message for the operator. */

import { parseMessage } from "/assets/json.js";
import { liveUrl } from "/assets/live-url.js";

const TIMEOUT_MS = 15_000;

/** Why a request failed. */
export class ApiError extends Error {
  /**
   * @param {string} message a sentence for the operator
   * @param {{status?: number, code?: string, field?: string, cause?: Error}} [problem] the HTTP status, 0 without an answer;
   *   the code and the field of the server's error
   */
  constructor(message, { status = 0, code = "unavailable", field = null, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { status, code, field });
  }
}

/** The requests of one session. */
export class Api {
  /** When the notifier last answered or pushed something, by this computer's clock in ms; 0 before that. */
  lastHeard = 0;
  /** The server's time minus this computer's in ms, as far as it is known. */
  skewMs = 0;
  /** Called when the operator has changed something, so that counts are outdated. */
  onAction = null;
  #session;

  constructor(session) {
    this.#session = session;
  }

  /** The server's time in ms. */
  now() {
    return Date.now() + this.skewMs;
  }

  /** Note that the notifier was heard, for example on a socket. */
  heard() {
    this.lastHeard = Date.now();
  }

  /**
   * Request something from the notifier, and return its JSON.
   *
   * @param {string} path such as `/live/kinds`
   * @param {object} [query] its parameters; an array is repeated, and what is null or "" is left out
   * @param {{method?: string, signal?: AbortSignal, parse?: (text: string) => *}} [options] `parse` reads the answer
   * @throws {ApiError}
   */
  async live(path, query = {}, options = {}) {
    const url = withParameters(`${liveUrl}${path}`, query);
    const answer = await this.#authorized((token) => request(url, { ...options, token }));
    this.heard();
    this.#reportChange(options);
    if (answer?.now) this.skewMs = Date.parse(answer.now) - Date.now();
    return answer;
  }

  /**
   * Request something from the submitter, and return its JSON, or null if the answer has no body.
   *
   * @param {string} path such as `/bulk`
   * @param {{method?: string, body?: object | string, headers?: object, parse?: (text: string) => *}} [options] `body` may be
   *   JSON text, and `parse` reads the answer
   * @throws {ApiError}
   */
  async submitter(path, options = {}) {
    const answer = await this.#authorized((token) => request(path, { ...options, token }));
    this.#reportChange(options);
    return answer;
  }

  #reportChange({ method = "GET" }) {
    if (method !== "GET") this.onAction?.();
  }

  /** Request something with the token, and once more with another one if it was refused. */
  async #authorized(send) {
    const getToken = this.#session.tokens();
    try {
      return await send(await getToken());
    } catch (error) {
      if (error.status !== 401) throw error;
      return send(await getToken());
    }
  }
}

/** Return a URL with parameters, an object or `URLSearchParams`: an array is repeated, what is null or "" is left out. */
export function withParameters(url, query) {
  const values = query instanceof URLSearchParams ? [...query] : Object.entries(query);
  const pairs = values.flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const text = String(new URLSearchParams(pairs.filter(([, value]) => (value ?? "") !== "")));
  return text ? `${url}?${text}` : url;
}

/**
 * Send a request with a token or an API key, and return the JSON of the answer, null if it has none.
 *
 * @throws {ApiError}
 */
export async function request(url, { method = "GET", body, token, headers = {}, signal, parse = parsed }) {
  const options = {
    method,
    cache: "no-store",
    signal: signal ?? AbortSignal.timeout?.(TIMEOUT_MS), // browsers before 2022 have none
    headers: { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { "Content-Type": "application/json" }), ...headers },
    body: typeof body === "object" ? JSON.stringify(body) : body,
  };
  let response, text;
  try {
    response = await fetch(url, options);
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(navigator.onLine ? "The server cannot be reached; try again." : "This browser is offline.", { cause: error });
  }
  if (response.ok) return parse(text);
  const answer = parsed(text);
  const message = answer?.detail ?? `The server answered with status ${response.status}; try again.`;
  throw new ApiError(message, { status: response.status, code: answer?.code, field: answer?.field });
}

/** Return the JSON of an answer, null if it is none: a proxy may answer with a page. */
function parsed(text) {
  try {
    return parseMessage(text);
  } catch {
    return null;
  }
}
