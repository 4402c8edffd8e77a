/** Requests to the submitter, whose failures have messages for users. */

/**
 * Post a value as JSON and return the response's JSON.
 *
 * @throws {Error} the request failed; the message is a sentence for the user
 */
export async function postJson(url, value, headers = {}) {
  const body = JSON.stringify(value);
  const options = { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body };
  const response = await fetch(url, options).catch(() => {
    throw new Error(navigator.onLine ? "The server cannot be reached; try again." : "This browser is offline.");
  });
  const answer = await response.json().catch(() => null); // a proxy may answer with a page
  if (response.ok && answer) return answer;
  throw new Error(answer?.detail ?? `The server answered with status ${response.status}; try again.`);
}
