/** The icon of each status: a shape that is distinct without its color. */

const SVG = "http://www.w3.org/2000/svg";

const circle = (attributes = {}) => ["circle", { cx: 8, cy: 8, r: 5.5, ...attributes }];
const path = (d, attributes = {}) => ["path", { d, ...attributes }];
const SHAPES = {
  queued: [circle({ "stroke-dasharray": "2.4 2" })],
  running: [circle({ opacity: 0.3 }), path("M8 2.5a5.5 5.5 0 0 1 5.5 5.5")],
  stalled: [circle(), path("M6.3 6v4M9.7 6v4")],
  retrying: [path("M13 8a5 5 0 1 1-1.6-3.7M13 2.5v2.6h-2.6")],
  succeeded: [path("m3.5 8.5 3 3 6-7")],
  failed: [path("m4.5 4.5 7 7m0-7-7 7")],
  cancelled: [circle(), path("m4.3 11.7 7.4-7.4")],
  lost: [path("M8 2.5 14 13H2z"), path("M8 6.5v3M8 11.4v.1")],
};

/** Create the icon of a status, or of a running job that is `stalled` or `lost`. Its word stands beside it. */
export function statusIcon(status) {
  const shapes = (SHAPES[status] ?? []).map(([tag, attributes]) => create(tag, attributes));
  return create("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, ...shapes);
}

function create(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
