/**
 * JSON without loss: the texts of numbers that `JSON.parse` changes, such as 9007199254740993, 1e400 and 1.10.
 *
 * The numbers of a snapshot stay numbers. `snapshot.exact` has the original texts of those that have changed, as a plain
 * object that can be sent to other tabs.
 */

const STRINGS_AND_NUMBERS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;

/** Parse a message of the server. Its snapshots are in `job` or `jobs`. */
export function parseMessage(text) {
  const message = JSON.parse(text);
  const jobs = snapshotsOf(message);
  if (!jobs.some(mayHaveChanged)) return message;
  const { value, stringify } = parseExactly(text);
  snapshotsOf(value).forEach((exactJob, index) => addExactTexts(jobs[index], exactJob, stringify));
  return message;
}

/** Indent a JSON text as `JSON.stringify(value, null, 2)` does, and keep its numbers. */
export function indentJson(text) {
  const { value, stringify } = parseExactly(text);
  return stringify(value, 2);
}

/** Return the snapshots of a message. With a token for details, a list has one in each element's `job`. */
function snapshotsOf({ job, jobs = job ? [job] : [] }) {
  return jobs.map((each) => each.job ?? each);
}

/** Return whether a number of a snapshot may have changed; few snapshots have a result or a large number. */
function mayHaveChanged({ progress, result }) {
  const hasNumber = result !== null && ["number", "object"].includes(typeof result);
  return hasNumber || isLarge(progress?.current) || isLarge(progress?.total);
}

function addExactTexts(snapshot, { progress, result }, stringify) {
  const exact = {};
  const text = stringify(result);
  if (text !== JSON.stringify(snapshot.result)) exact.result = text;
  for (const name of ["current", "total"]) {
    if (isLarge(snapshot.progress?.[name])) exact[name] = stringify(progress[name]);
  }
  if (Object.keys(exact).length) snapshot.exact = exact;
}

function isLarge(number) {
  return Math.abs(number) > Number.MAX_SAFE_INTEGER;
}

/**
 * Parse a JSON text. In the value, a number that JavaScript would write in another way is a string: a mark that begins
 * no other string, and the number's text. `stringify(value, indent)` returns JSON with the original numbers.
 */
export function parseExactly(text) {
  const plain = JSON.stringify(JSON.parse(text));
  const used = new Set(plain.match(/"n\d+n/g));
  let number = 0;
  while (used.has(`"n${number}n`)) number++;
  const mark = `n${number}n`;
  const isChanged = (token) => token[0] !== '"' && String(Number(token)) !== token;
  const value = JSON.parse(text.replace(STRINGS_AND_NUMBERS, (token) => (isChanged(token) ? `"${mark}${token}"` : token)));
  const marked = new RegExp(`"${mark}([^"]*)"`, "g");
  return { value, stringify: (part, indent) => JSON.stringify(part, null, indent).replace(marked, "$1") };
}
