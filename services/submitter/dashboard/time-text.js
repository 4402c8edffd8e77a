/** A time as the dashboard shows it: in the reader's locale and zone, with its distance from now beside it. */

import { h, setAttribute } from "/assets/dom.js";
import { ageText, preciseDurationText } from "/assets/format.js";
import { setText } from "/assets/text.js";

const clock = { hour: "numeric", minute: "2-digit", second: "2-digit" };
const day = { month: "short", day: "numeric" };
const formats = [clock, { ...day, ...clock }, { ...day, year: "numeric", ...clock }].map((options) => new Intl.DateTimeFormat(undefined, options));
const withZone = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export class TimeText {
  #time = h("time", { dir: "auto" }); // its direction is not that of the distance
  #distance = h("span", { class: "soft" });
  element = h("span", { class: "moment" }, this.#time, " ", this.#distance);

  /** Show a time as of now, in ms; both are the server's. The title of the time names the zone. */
  render(time, now) {
    setAttribute(this.#time, "datetime", time);
    setAttribute(this.#time, "title", withZone.format(new Date(time)));
    setText(this.#time, momentText(time, now));
    setText(this.#distance, distanceText(time, now));
  }
}

/** Return a time with seconds, with its date unless that is the date of another time, and with the year unless that is its year. */
export function momentText(time, other) {
  const [date, otherDate] = [new Date(time), new Date(other)];
  const isSameDay = date.toDateString() === otherDate.toDateString();
  const isSameYear = date.getFullYear() === otherDate.getFullYear();
  return formats[isSameDay ? 0 : isSameYear ? 1 : 2].format(date);
}

/** Return how far a time is from now, such as "5 min ago" or "in 2 h 3 min". */
function distanceText(time, now) {
  const ms = Date.parse(time) - now;
  return ms > 0 ? `in ${preciseDurationText(ms)}` : ageText(time, now);
}
