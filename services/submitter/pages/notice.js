/** The notice that the connection is lost, and announcements for users of screen readers. */

import { connectionText } from "/assets/format.js";
import { setText } from "/assets/text.js";

const ANNOUNCEMENT_DELAY_MS = 1000; // a quick reconnect is not announced
const ANNOUNCEMENT_MS = 3000; // an announcement that stays could be read later, when it is not true any more

const notice = document.querySelector("#connection");
const announcement = document.querySelector("#announcement");

let timer;
let clearTimer;
let lossAnnounced = false;
let texts = []; // to announce together: a later one would replace an earlier one

/** Announce a text to users of screen readers, after what they are just hearing. */
export function announce(text) {
  if (!texts.length) {
    queueMicrotask(() => {
      announcement.textContent = texts.join(" ");
      texts = [];
      clearTimeout(clearTimer);
      clearTimer = setTimeout(() => announcement.replaceChildren(), ANNOUNCEMENT_MS);
    });
  }
  texts.push(text);
}

/** Return the state of a lost connection as text, "" unless it is lost. */
export function lostText(state, snapshot) {
  if (state === "live" || state === "connecting") return "";
  return connectionText(state, snapshot) || "Not connected.";
}

/** Show that the connection is lost, if it is, and from which time in ms the state of the job is. */
export function showConnection(lost, knownAt) {
  notice.hidden = !lost;
  clearTimeout(timer);
  if (!lost) {
    if (lossAnnounced) announce("Connected again.");
    lossAnnounced = false;
    return;
  }
  const text = `${lost} Last known state of ${new Date(knownAt).toLocaleTimeString()}.`;
  setText(notice, text);
  timer = setTimeout(() => {
    announce(text);
    lossAnnounced = true;
  }, ANNOUNCEMENT_DELAY_MS);
}
