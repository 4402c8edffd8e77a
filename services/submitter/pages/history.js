/**
 * The jobs started in this browser: their tokens, newest first, kept only in local storage.
 *
 * A token contains everything that the list needs, so the server does not have to know who started which job.
 */

import { readClaims } from "/assets/token.js";

const KEY = "headway-jobs";
const MAX_JOBS = 50;

/**
 * @returns {{id: string, kind: string, token: string, submitted: number}[]} the jobs whose token has not expired,
 *   newest first; `submitted` is in ms
 */
export function list() {
  return read().filter(({ expires }) => expires > Date.now());
}

/** Add a job. */
export function remember(token) {
  write([token, ...list().map((job) => job.token)]);
}

/** Remove jobs. */
export function forget(...ids) {
  write(list().filter(({ id }) => !ids.includes(id)).map(({ token }) => token));
}

/** Call back when another tab changes the list. */
export function onChange(callback) {
  addEventListener("storage", ({ key }) => (key === KEY || key === null) && callback());
}

function read() {
  try {
    const tokens = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return tokens.map(describe).filter(Boolean);
  } catch {
    return []; // storage is unavailable or contains something else
  }
}

function describe(token) {
  const claims = readClaims(token);
  const { sub: id, kind, iat, exp } = claims ?? {};
  return claims && { id, kind, token, submitted: iat * 1000, expires: exp * 1000 };
}

function write(tokens) {
  try {
    localStorage.setItem(KEY, JSON.stringify([...new Set(tokens)].slice(0, MAX_JOBS)));
  } catch {
    // Storage is unavailable or full: the list stays as it is.
  }
}
