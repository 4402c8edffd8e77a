/** Why the job page cannot show or cancel a job, in words for the user. A problem has the format of a job's error. */

const PROBLEMS = {
  incomplete: {
    type: "This link is incomplete",
    message: "A job’s link ends with # and a long key, which is missing here. Open the whole link, or start a new job.",
  },
  invalid_token: {
    type: "This link is not valid",
    message: "Its key is damaged or belongs to another job or site. Open the whole link, or start a new job.",
  },
  token_expired: {
    type: "This link has expired",
    message: "A job can be watched for some days after it was started, and that time has passed.",
  },
  refused: {
    type: "The server refuses this page",
    message: "It does not accept connections from this address. Its operator can change that.",
  },
  origin_not_allowed: {
    type: "The server refuses this page",
    message: "This page’s address is not on the list of allowed origins. The server’s operator can change that.",
  },
  too_many_watches: {
    type: "This browser watches too many jobs",
    message: "Close other pages that show jobs, then reload this page.",
  },
  forbidden: {
    type: "This link may not cancel the job",
    message: "Its key is for watching only.",
  },
  unavailable: {
    type: "The job could not be cancelled",
    message: "The server cannot store the request at the moment. Try again.",
  },
  unknown: {
    type: "The server has lost this job’s record",
    message: "The job may still be running. If it is, the worker’s next report will show it here.",
  },
};

/** Return the problem for an error of the watch; an unknown code is shown with the server's message. */
export function problemOf({ code, message }) {
  return { code, ...(PROBLEMS[code] ?? { type: "The server cannot show this job", message }) };
}

/**
 * Return why a page has no job to show yet.
 *
 * @param {string} url the notifier's URL
 * @param {object} connection
 * @param {string} connection.state its state
 * @param {{code?: number}} [connection.detail] the cause: a WebSocket close code or HTTP status
 */
export function waitingProblem(url, { state, detail }) {
  const type = "The server does not answer yet; still trying…";
  if (!navigator.onLine) {
    return { type: "This browser is offline", message: "The job appears here when the browser is online again." };
  }
  if (state === "live") {
    return { type, message: "It is connected, but has not sent the job. Its store may be unavailable." };
  }
  if (detail?.code >= 400 && detail.code < 600) return { type, message: `${url} answers with status ${detail.code}.` };
  const message = `No connection to ${url} can be opened. The server may be stopped, or a network in between blocks it.`;
  return { type, message };
}
