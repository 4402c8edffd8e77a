/** The home page: starts jobs, and shows the jobs started in this browser live. */

import "/assets/headway.js";
import { forget, list, onChange, remember } from "/assets/history.js";
import { liveUrl } from "/assets/live-url.js";

const form = document.querySelector("form");
const button = document.querySelector("#start");
const problem = document.querySelector("#problem");
const started = document.querySelector("#started");
const jobs = document.querySelector("#jobs");
const row = document.querySelector("#row");

/** Submit the form as JSON and remember the job. Without JavaScript the browser submits the form itself. */
async function start() {
  const response = await fetch(form.action, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(Object.fromEntries(new FormData(form))),
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail);
  remember(body.token);
  location.assign(pageOf(body));
}

function pageOf({ id, token }) {
  return `/jobs/${id}#${token}`;
}

/** Show the remembered jobs. Existing rows are reused, so that their elements stay connected. */
function render() {
  const rows = new Map([...jobs.children].map((item) => [item.dataset.id, item]));
  jobs.replaceChildren(...list().map((job) => rows.get(job.id) ?? createRow(job)));
  started.hidden = !jobs.children.length;
}

function createRow({ id, kind, token }) {
  const item = document.importNode(row.content.firstElementChild, true);
  const [link, forgetButton] = item.querySelectorAll("a, button");
  item.dataset.id = id;
  Object.assign(link, { href: pageOf({ id, token }), textContent: kind });
  Object.assign(link.parentElement, { token, url: liveUrl });
  forgetButton.ariaLabel = `Forget ${kind}`;
  forgetButton.addEventListener("click", () => {
    const neighbor = item.nextElementSibling ?? item.previousElementSibling;
    forget(id);
    render();
    (neighbor ?? document).querySelector("button").focus();
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
addEventListener("pageshow", render); // also after navigating back from a job page
