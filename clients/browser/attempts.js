/** The list of a job's earlier attempts. */

import { attemptText, errorName } from "./format.js";

const shownAttempts = new WeakMap(); // by list, as JSON: a translator may have changed the texts in the page

/** Show the earlier attempts of a job, if any, in a list; return whether they are new. */
export function renderAttempts(list, snapshot) {
  const attempts = snapshot?.earlier_attempts ?? [];
  const json = JSON.stringify(attempts);
  if (json === (shownAttempts.get(list) ?? "[]")) return false;
  shownAttempts.set(list, json);
  list.replaceChildren(...attempts.map(createItem));
  return true;
}

function createItem(attempt) {
  const item = document.createElement("li");
  item.append(attemptText(attempt));
  const name = errorName(attempt.error, true);
  if (name) {
    const type = document.createElement("span");
    type.setAttribute("translate", "no");
    type.textContent = name;
    item.append(" · ", type);
  }
  return item;
}
