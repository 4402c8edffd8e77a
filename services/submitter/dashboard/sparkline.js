/** The jobs of each of the last 24 hours as small bars, in which failures stand out. */

import { svg } from "/assets/dom.js";

const WIDTH = 120;
const HEIGHT = 24;
const GAP = 1;

/**
 * Create the drawing, which has its numbers as a text alternative.
 *
 * @param {{hour: string, submitted: number, succeeded: number, failed: number, cancelled: number}[]} hours the oldest first
 */
export function sparkline(hours) {
  const counts = hours.map((hour) => Math.max(hour.submitted, hour.succeeded + hour.failed + hour.cancelled));
  const most = Math.max(1, ...counts);
  const step = WIDTH / hours.length;
  const bars = hours.flatMap(({ failed }, index) => {
    const share = (count) => (count ? Math.max(1.5, (HEIGHT * count) / most) : 0);
    const [height, bad] = [share(counts[index]), share(failed)];
    const place = { x: index * step, width: step - GAP };
    return [
      svg("rect", { ...place, y: HEIGHT - height, height: Math.max(0, height - bad), class: "spark-jobs" }),
      svg("rect", { ...place, y: HEIGHT - bad, height: bad, class: "spark-failed" }),
    ];
  });
  const attributes = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "spark", role: "img", "aria-label": summary(hours), preserveAspectRatio: "none" };
  return svg("svg", attributes, ...bars);
}

function summary(hours) {
  const total = (name) => hours.reduce((sum, hour) => sum + hour[name], 0);
  const busiest = hours.reduce((best, hour) => (hour.submitted > best.submitted ? hour : best), hours[0]);
  const submitted = total("submitted");
  const text = `${submitted.toLocaleString()} ${submitted === 1 ? "job" : "jobs"} in 24 hours, ${total("failed").toLocaleString()} failed`;
  if (submitted < 2) return text;
  return `${text}; most were submitted at ${new Date(busiest.hour).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
}
