/** The menu of all that can be done with the job of a row: a click elsewhere, Escape and Tab close it. */

import { NOT_COPIED, copyText } from "/assets/clipboard.js";
import { h, loadStyles } from "/assets/dom.js";
import { nameText } from "/assets/format.js";
import { applies } from "/assets/job-requests.js";
import { urlOf } from "/assets/router.js";

const MARGIN_PX = 8; // to the edges of the window
const STEPS = { ArrowDown: 1, ArrowUp: -1 };

/**
 * Open the menu of a row; the focus returns to its link.
 *
 * @param {object} app
 * @param {import("/assets/actions.js").JobActions} actions
 * @param {import("/assets/job-list-row.js").JobListRow} row
 */
export function openRowMenu(app, actions, { snapshot, link }) {
  return openMenu(link, `Actions of ${nameText(snapshot)}`, itemsOf(app, actions, snapshot));
}

function itemsOf(app, actions, job) {
  const open = { text: "Open", run: () => app.router.navigate(urlOf("job", { name: job.id })) };
  const copy = { text: "Copy the id", run: () => copyId(app.notices, job.id) };
  if (!app.session.canOperate) return [open, copy];
  const hasEnded = applies("runAgain", job);
  const item = (text, action, isDanger) => ({ text, isDanger, run: () => actions[action](job) });
  return [
    open,
    hasEnded && item("Run again", "runAgain"),
    hasEnded && item("Run again with changes…", "runAgainWithChanges"),
    applies("cancel", job) && item("Cancel…", "cancel", true),
    item("Copy a link to share", "share"),
    copy,
    hasEnded && item("Erase…", "erase", true),
  ].filter(Boolean);
}

async function copyId(notices, id) {
  if (await copyText(id)) notices.show("The id is copied.");
  else notices.show(`${NOT_COPIED} The id is ${id}`, { isError: true });
}

/**
 * Open a menu at an element, which has or gets the focus back when the menu closes.
 *
 * @param {HTMLElement} anchor
 * @param {string} label what the actions are for
 * @param {{text: string, run: () => void, isDanger?: boolean}[]} actions
 */
async function openMenu(anchor, label, actions) {
  await loadStyles("actions.css");
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label, popover: "auto" });
  const close = () => {
    menu.remove();
    if (anchor.isConnected) anchor.focus();
  };
  const items = actions.map(({ text, run, isDanger }) => {
    const choose = () => {
      close();
      run();
    };
    return h("button", { type: "button", role: "menuitem", tabindex: -1, class: isDanger ? "danger" : null, click: choose }, text);
  });
  menu.append(...items);
  menu.addEventListener("keydown", (event) => onKey(event, items, close));
  menu.addEventListener("toggle", ({ newState }) => newState === "closed" && menu.isConnected && close());
  anchor.closest("main").append(menu);
  menu.showPopover();
  place(menu, anchor.getBoundingClientRect());
  items[0].focus();
}

function onKey(event, items, close) {
  event.stopPropagation(); // the keys of the view are for its rows
  const target = itemAt(event.key, items, items.indexOf(document.activeElement));
  if (target) target.focus();
  else if (event.key === "Tab" || event.key === "Escape") close();
  else return;
  event.preventDefault();
}

/** Return the item that a key leads to: an arrow, Home, End, or the first letter of its text. */
function itemAt(key, items, index) {
  if (key in STEPS) return items.at((index + STEPS[key]) % items.length);
  if (key === "Home" || key === "End") return items.at(key === "Home" ? 0 : -1);
  const following = [...items.slice(index + 1), ...items.slice(0, index + 1)];
  return key === " " ? null : following.find(({ textContent }) => textContent[0].toLowerCase() === key.toLowerCase());
}

/** Place the menu below an element, or above it if there is more room. */
function place(menu, { left, top, bottom }) {
  const { innerWidth, innerHeight } = window;
  const { offsetWidth: width, offsetHeight: height } = menu;
  const isBelow = bottom + height + MARGIN_PX <= innerHeight || top < innerHeight - bottom;
  const y = isBelow ? bottom + 4 : top - height - 4;
  menu.style.insetInlineStart = "auto";
  menu.style.left = `${Math.max(MARGIN_PX, Math.min(left, innerWidth - width - MARGIN_PX))}px`;
  menu.style.top = `${Math.max(MARGIN_PX, Math.min(y, innerHeight - height - MARGIN_PX))}px`;
}
