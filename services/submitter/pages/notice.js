/** The notice that the connection is lost, and announcements for users of screen readers. */

import { setText } from "/assets/text.js";

const ANNOUNCEMENT_DELAY_MS = 1000; // a quick reconnect is not announced
const LOST_TEXTS = { offline: "Offline.", reconnecting: "Reconnecting…", refused: "Not connected." };

const notice = document.querySelector("#connection");
const announcement = document.querySelector("#announcement");

let timer;
let lossAnnounced = false;
let texts = []; // to announce together: a later one would replace an earlier one

/** Announce a text to users of screen readers, after what they are just hearing. */
export function announce(text) {
  if (!texts.length) {
    queueMicrotask(() => {
      announcement.textContent = texts.join(" ");
      texts = [];
    });
  }
  texts.push(text);
}

/** Return the state of a lost connection as text, "" unless it is lost. */
export function lostText(state) {
  if (state === "reconnecting" && !navigator.onLine) return LOST_TEXTS.offline;
  return LOST_TEXTS[state] ?? "";
}

/** Show the connection's state, and that the page shows the job's state of an earlier time, in ms, while it is lost. */
export function showConnection(state, knownAt) {
  const lost = lostText(state);
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
