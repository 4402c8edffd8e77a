/** When a job was submitted, started and finished: the times in the reader's zone, how long ago they were, and the zone. */

import { setAttribute } from "/assets/dom.js";
import { ageText, timestampText } from "/assets/format.js";
import { setText } from "/assets/text.js";

const withZone = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const times = [...document.querySelectorAll("#dates time")];

/**
 * Show the times.
 *
 * @param {(?string)[]} values when the job was submitted, started and finished, as RFC 3339; null if it was not
 * @param {number} now the server's time in ms
 */
export function showDates(values, now) {
  times.forEach((time, index) => {
    const value = values[index];
    setAttribute(time, "datetime", value);
    setAttribute(time, "title", value && withZone.format(new Date(value)));
    setText(time, value && timestampText(value, now));
    setText(time.closest("div").querySelector(".age"), value && ageText(value, now));
  });
}
