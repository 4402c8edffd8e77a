/** The home page: starts a job, and shows live the jobs that this browser has started. */

import "/assets/headway.js";
import { forget, list, onChange, remember } from "/assets/history.js";
import { liveUrl } from "/assets/live-url.js";

const form = document.querySelector("form");
const button = document.querySelector("#start");
const problem = document.querySelector("#problem");
const started = document.querySelector("#started");
const jobs = document.querySelector("#jobs");
const row = document.querySelector("#row");

/** Submit as a program does. Without JavaScript the form does it by itself, and nothing is remembered. */
async function start() {
  const response = await fetch(form.action, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(Object.fromEntries(new FormData(form))),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  remember(answer.token);
  location.assign(pageOf(answer));
}

function pageOf({ id, token }) {
  return `/jobs/${id}#${token}`;
}

/** Show each remembered job; a row that is there already goes on. */
function render() {
  const rows = new Map([...jobs.children].map((item) => [item.dataset.id, item]));
  jobs.replaceChildren(...list().map((job) => rows.get(job.id) ?? rowOf(job)));
  started.hidden = !jobs.children.length;
}

function rowOf({ id, kind, token }) {
  const item = document.importNode(row.content.firstElementChild, true);
  const [link, forgetting] = item.querySelectorAll("a, button");
  item.dataset.id = id;
  Object.assign(link, { href: pageOf({ id, token }), textContent: kind });
  Object.assign(link.parentElement, { token, url: liveUrl });
  forgetting.ariaLabel = `Forget ${kind}`;
  forgetting.addEventListener("click", () => {
    const neighbour = item.nextElementSibling ?? item.previousElementSibling;
    forget(id);
    render();
    (neighbour ?? document).querySelector("button").focus();
  });
  return item;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  problem.textContent = "";
  try {
    await start();
  } catch (error) {
    problem.textContent = `No job was started. ${error.message}`;
  }
  button.disabled = false;
});
onChange(render);
addEventListener("pageshow", render); // back from a job's page, too
