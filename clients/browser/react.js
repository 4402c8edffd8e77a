/** React bindings: the component `<HeadwayJob>` and the hooks `useJob()` and `useJobs()`. They render on a server, too. */

import { createElement, useCallback, useEffect, useImperativeHandle, useLayoutEffect, useRef, useState } from "react";
import { defineHeadwayJob } from "./headway-job.js";
import { INITIAL_STATE } from "./job-list.js";
import { readClaims } from "./token.js";
import { watchJob } from "./watch.js";
import { watchJobs } from "./watch-jobs.js";

const EVENTS = ["headway-change", "headway-error"];

/**
 * The element `<headway-job>` with callbacks. Other properties are those of the element.
 *
 * React adds no listeners for the events of a custom element that it hydrates, and events before the hydration are lost
 * anyway. So this component listens by itself, and compares the element's state with what its callbacks have received.
 *
 * @param {object} props
 * @param {(snapshot: object) => void} [props.onChange] called with each newer snapshot
 * @param {(snapshot: object) => void} [props.onEnd] called with the last snapshot when the job has finished
 * @param {(error: {code: string, message: string}) => void} [props.onError] called when the job cannot be watched or
 *   cancelled
 * @param {object} [props.ref] receives the element
 */
export function HeadwayJob({ onChange, onEnd, onError, ref, ...props }) {
  const elementRef = useRef(null);
  const received = useRef({ snapshot: null, error: null }); // by the callbacks
  useImperativeHandle(ref, () => elementRef.current, []);
  useLayoutEffect(() => {
    const element = elementRef.current;
    const update = () => {
      const { snapshot, error } = element;
      const before = received.current;
      received.current = { snapshot, error };
      if (snapshot && snapshot !== before.snapshot) onChange?.(snapshot);
      if (hasEnded(snapshot, before.snapshot)) onEnd?.(snapshot);
      if (error && error !== before.error) onError?.(error);
    };
    defineHeadwayJob();
    for (const type of EVENTS) element.addEventListener(type, update);
    update();
    return () => EVENTS.forEach((type) => element.removeEventListener(type, update));
  }, [onChange, onEnd, onError]);
  return createElement("headway-job", { ...props, ref: elementRef });
}

/**
 * Watch a job while the component is mounted.
 *
 * @param {?string} token the job's watch token; without one, the hook watches nothing
 * @param {{url: string}} options the notifier's public URL
 * @returns {{job: ?object, error: ?{code: string, message: string}, connection: string, cancel: () => void}} the newest
 *   snapshot, the error since then, and the state of the connection, as in `watchJob()`
 */
export function useJob(token, { url }) {
  const [lastState, setState] = useState({});
  const watchRef = useRef(null);
  useEffect(() => {
    if (!token) return undefined;
    const update = (change) => setState((state) => ({ ...stateFor(state, token, url), ...change }));
    const onConnection = (connection) => update({ connection });
    const onError = (error) => update({ error });
    const watch = watchJob({ url, token, onConnection, onError }, (job) => update({ job, error: null }));
    watchRef.current = watch;
    return () => {
      watch.close();
      watchRef.current = null;
    };
  }, [token, url]);
  const cancel = useCallback(() => watchRef.current?.cancel(), []);
  const { job, error, connection } = stateFor(lastState, token, url);
  return { job, error, connection, cancel };
}

/**
 * Watch a list of jobs while the component is mounted.
 *
 * @param {?(string | (() => string | Promise<string>))} token the token of a list, or a function that returns one; without
 *   one, the hook watches nothing
 * @param {{url: string, filter?: object, limit?: number}} options as in `watchJobs()`
 * @returns {object} the state of the list, as in `watchJobs()`, and the functions `more`, `cancel` and `hold`
 */
export function useJobs(token, { url, filter = {}, limit }) {
  const key = JSON.stringify([url, filter, limit, Boolean(token)]);
  const [last, setLast] = useState({});
  const listRef = useRef(null);
  const tokenRef = useRef(token);
  useEffect(() => {
    tokenRef.current = token;
    if (typeof token === "string") listRef.current?.renew(token);
  }, [token]);
  useEffect(() => {
    if (!tokenRef.current) return undefined;
    const getToken = () => tokenRef.current(); // the newest function
    const source = typeof tokenRef.current === "function" ? getToken : tokenRef.current;
    const list = watchJobs({ url, token: source, filter, limit }, (state) => setLast({ key, state }));
    listRef.current = list;
    return () => {
      list.close();
      listRef.current = null;
    };
  }, [key]);
  const more = useCallback(() => listRef.current?.more(), []);
  const cancel = useCallback((id) => listRef.current?.cancel(id), []);
  const hold = useCallback((held) => listRef.current?.hold(held), []);
  return { ...(last.key === key ? last.state : INITIAL_STATE), more, cancel, hold };
}

/** Return whether a snapshot reports an end that the snapshot before did not. */
function hasEnded(snapshot, before) {
  return Boolean(snapshot?.finished_at) && (snapshot.finished_at !== before?.finished_at || snapshot.id !== before.id);
}

/** Return the state if it belongs to this watch, otherwise the initial one. A new token of a job keeps its snapshot. */
function stateFor(state, token, url) {
  if (state.token === token && state.url === url) return state;
  const job = state.job && state.job.id === readClaims(token)?.sub ? state.job : null;
  return { token, url, job, error: null, connection: "connecting" };
}
