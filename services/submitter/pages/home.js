/** The home page: starts jobs, and shows the jobs started in this browser live. */

import "/assets/element.js";
import { nameText, preciseDurationText } from "/assets/format.js";
import { forget, list, onChange, remember } from "/assets/history.js";
import { liveUrl } from "/assets/live-url.js";
import { newKey, notStartedText, postJson } from "/assets/request.js";
import { setText } from "/assets/text.js";
import { JobTimes } from "/assets/times.js";

const form = document.querySelector("form");
const button = document.querySelector("#start");
const problem = document.querySelector("#problem");
const started = document.querySelector("#started");
const jobs = document.querySelector("#jobs");
const row = document.querySelector("#row");
const clear = document.querySelector("#clear");
const cleared = document.querySelector("#cleared");
const snapshots = new Map(); // by job id: a token has only the kind of its job and when it was submitted

let key = newKey(); // of the next job: a request whose answer was lost is repeated with it

/** Submit the form as JSON and remember the job. Without JavaScript the browser submits the form itself. */
async function start() {
  const fields = [...new FormData(form)].filter(([, value]) => value.trim());
  const receipt = await postJson(form.action, Object.fromEntries(fields), { "Idempotency-Key": key });
  key = newKey();
  remember(receipt.token);
  form.reset();
  location.assign(pageOf(receipt));
}

function pageOf({ id, token }) {
  return `/jobs/${id}#${token}`;
}

/** Show the remembered jobs. A row that stays is not moved: it would lose its connection and its focus. */
function render() {
  const listed = list();
  const rows = new Map([...jobs.children].map((item) => [item.dataset.id, item]));
  const focused = [...jobs.children].findIndex((item) => item.contains(document.activeElement));
  const ids = new Set(listed.map(({ id }) => id));
  for (const [id, item] of rows) if (!ids.has(id)) item.remove();
  listed.forEach((job, index) => {
    const place = jobs.children[index];
    if (place?.dataset.id !== job.id) jobs.insertBefore(rows.get(job.id) ?? createRow(job), place ?? null);
  });
  renderTexts(listed);
  started.hidden = !listed.length;
  if (focused >= 0 && !jobs.contains(document.activeElement)) focusNeighbor(focused);
}

/** Focus the neighbor of a removed row that had the focus, or the button that starts a job. */
function focusNeighbor(index) {
  const neighbor = jobs.children[index] ?? jobs.lastElementChild;
  (neighbor?.querySelector("button") ?? button).focus();
}

function createRow({ id, token }) {
  const item = document.importNode(row.content.firstElementChild, true);
  const [link, forgetButton] = item.querySelectorAll("a, button");
  item.dataset.id = id;
  link.href = pageOf({ id, token });
  Object.assign(link.parentElement, { token, url: liveUrl });
  forgetButton.addEventListener("click", () => {
    forget(id);
    render();
  });
  return item;
}

/** Show the texts of the rows: name or kind and when it was submitted, with a number where several are the same. */
function renderTexts(listed) {
  const items = new Map([...jobs.children].map((item) => [item.dataset.id, item]));
  const counts = new Map();
  for (const job of [...listed].reverse()) {
    const item = items.get(job.id);
    if (!item) continue; // another tab has just added it
    const [link, small, forgetButton] = item.querySelectorAll("a, small, button");
    const snapshot = snapshots.get(job.id);
    const name = nameText(snapshot ?? job);
    const time = submissionText(job.submitted);
    const count = (counts.get(name + time) ?? 0) + 1;
    counts.set(name + time, count);
    const submission = count === 1 ? time : `${time} (${count})`;
    link.translate = name !== job.kind; // a kind is an identifier
    setText(link, name);
    setText(small, submission);
    setText(item.querySelector(".took"), snapshot && tookText(snapshot));
    forgetButton.ariaLabel = `Forget ${name}, ${submission}`;
  }
  clear.ariaDisabled = String(!finishedIds(listed).length);
}

/** Return a time as text, such as "submitted 10:32", with the date unless it is today. */
function submissionText(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return `submitted ${date.toLocaleString([], { dateStyle: isToday ? undefined : "medium", timeStyle: "short" })}`;
}

/** Return how long a finished job took over all its attempts, such as "took 48 s"; "" if it never started. */
function tookText(snapshot) {
  const times = new JobTimes();
  times.add(snapshot);
  const elapsed = snapshot.finished_at && times.elapsed(snapshot);
  return elapsed ? `took ${preciseDurationText(elapsed.ms)}` : "";
}

function finishedIds(listed) {
  return listed.map(({ id }) => id).filter((id) => snapshots.get(id)?.finished_at);
}

/** Remove the jobs that have finished. If none is left, the button disappears: the one that starts a job gets the focus. */
function clearFinished() {
  const ids = finishedIds(list());
  if (!ids.length) return;
  forget(...ids);
  setText(cleared, ids.length === 1 ? "1 job removed" : `${ids.length} jobs removed`);
  render();
  if (started.hidden) button.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true"; // a disabled button would lose the focus
  setText(problem, "");
  try {
    await start();
  } catch (error) {
    setText(problem, notStartedText(error));
  }
  button.ariaDisabled = "false";
});
jobs.addEventListener("headway-change", ({ detail: snapshot }) => {
  const { name, finished_at: finished } = snapshots.get(snapshot.id) ?? {};
  snapshots.set(snapshot.id, snapshot);
  if (name !== snapshot.name || finished !== snapshot.finished_at) renderTexts(list());
});
clear.addEventListener("click", clearFinished);
onChange(render);
addEventListener("pageshow", render); // also after navigating back from a job page
