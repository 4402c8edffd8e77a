/** The home page: starts jobs, and shows the jobs started in this browser live. */

import "/assets/element.js";
import { nameText } from "/assets/format.js";
import { forget, list, onChange, remember } from "/assets/history.js";
import { liveUrl } from "/assets/live-url.js";
import { postJson } from "/assets/request.js";
import { setText } from "/assets/text.js";

const form = document.querySelector("form");
const button = document.querySelector("#start");
const problem = document.querySelector("#problem");
const started = document.querySelector("#started");
const jobs = document.querySelector("#jobs");
const row = document.querySelector("#row");
const names = new Map(); // by job id, as shown: a name is in the snapshot, and only the kind in the token

/** Submit the form as JSON and remember the job. Without JavaScript the browser submits the form itself. */
async function start() {
  const fields = [...new FormData(form)].filter(([, value]) => value.trim());
  const receipt = await postJson(form.action, Object.fromEntries(fields));
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
  nameRows(listed);
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

/** Name the rows and their buttons after name or kind and start, with a number where these are the same. */
function nameRows(listed) {
  const counts = new Map();
  [...listed].reverse().forEach(({ id, kind, submitted }, index) => {
    const item = jobs.children[listed.length - 1 - index];
    const [link, small, button] = item.querySelectorAll("a, small, button");
    const name = names.get(id) ?? kind;
    const start = startText(submitted);
    const count = (counts.get(name + start) ?? 0) + 1;
    counts.set(name + start, count);
    const startName = count === 1 ? start : `${start} (${count})`;
    link.translate = name !== kind; // a kind is an identifier
    setText(link, name);
    setText(small, startName);
    button.ariaLabel = `Forget ${name}, ${startName}`;
  });
}

/** Return a time as text, such as "started 10:32", with the date unless it is today. */
function startText(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return `started ${date.toLocaleString([], { dateStyle: isToday ? undefined : "medium", timeStyle: "short" })}`;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true"; // a disabled button would lose the focus
  setText(problem, "");
  try {
    await start();
  } catch (error) {
    setText(problem, `No job was started. ${error.message}`);
  }
  button.ariaDisabled = "false";
});
jobs.addEventListener("headway-change", ({ detail: job }) => {
  const name = nameText(job);
  if (name === (names.get(job.id) ?? job.kind)) return;
  names.set(job.id, name);
  nameRows(list());
});
onChange(render);
addEventListener("pageshow", render); // also after navigating back from a job page
