/**
 * The jobs that this browser has started: their tokens, newest first, in its local storage and nowhere else.
 *
 * A token says all that there is to say of a job, and the server need not know who has started what.
 */

import { readClaims } from "/assets/token.js";

const KEY = "headway-jobs";
const MOST = 50;

/** @returns {{id: string, kind: string, token: string}[]} those whose time is not over, newest first */
export function list() {
  return read().filter(({ expires }) => expires > Date.now());
}

export function remember(token) {
  write([token, ...list().map((job) => job.token)]);
}

export function forget(id) {
  write(list().filter((job) => job.id !== id).map((job) => job.token));
}

/** Call back when another tab remembers or forgets a job. */
export function onChange(callback) {
  addEventListener("storage", ({ key }) => (key === KEY || key === null) && callback());
}

function read() {
  try {
    const tokens = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return tokens.map(describe).filter(Boolean);
  } catch {
    return []; // no storage, or something else in it
  }
}

function describe(token) {
  const claims = readClaims(token);
  return claims && { id: claims.sub, kind: claims.kind, token, expires: claims.exp * 1000 };
}

function write(tokens) {
  try {
    localStorage.setItem(KEY, JSON.stringify([...new Set(tokens)].slice(0, MOST)));
  } catch {
    // A browser that keeps nothing shows no list.
  }
}
