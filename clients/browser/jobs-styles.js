/** The styles of `<headway-jobs>` and its rows. */

import { COLORS, CSS } from "./styles.js";

export const JOBS_CSS = `${COLORS}
:host {
  display: block;
  line-height: 1.5;
}
:host([hidden]), [hidden] { display: none !important; }
[part~="list"] { position: relative; }
[part~="top"] { position: absolute; inset-block-start: 0; block-size: 1px; inline-size: 1px; }
[part~="heading"] { font-weight: 600; }
[part~="name"], [part~="announcer"] {
  position: absolute;
  inline-size: 1px;
  block-size: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}
[part~="line"] {
  position: sticky;
  inset-block-start: 0.25em;
  z-index: 1;
  display: flex;
  align-items: center;
  gap: 1em;
  min-block-size: 2em;
  pointer-events: none;
}
[part~="notice"] { color: var(--_soft); }
[part~="notice"]:empty { display: none; }
[part~="fresh"] { margin-inline-start: auto; }
[part~="jobs"] { margin: 0; padding: 0; list-style: none; outline-offset: 2px; }
[part~="row"] { padding-block: 0.5em; border-block-start: 1px solid var(--_track); }
[part~="problem"] {
  margin: 0;
  padding-inline: 0.8em;
  border-inline-start: 3px solid var(--_alarm);
  background: Canvas;
  color: CanvasText;
  pointer-events: auto;
}
[part~="empty"] { padding-block: 1em; border-block-start: 1px solid var(--_track); color: var(--_soft); }
[part~="age"] { color: var(--_soft); font-size: 0.875em; white-space: nowrap; }
[part~="link"] { color: inherit; }

[part~="fresh"], [part~="older"] {
  border: 1px solid var(--_track);
  border-radius: 1em;
  background: Canvas;
  color: CanvasText;
  font: inherit;
  font-size: 0.875em;
  padding: 0.15em 1em;
  cursor: pointer;
  pointer-events: auto;
}
[part~="fresh"]:hover, [part~="older"]:hover { border-color: currentColor; }
[part~="older"][aria-disabled] { opacity: 0.75; cursor: default; }
[part~="older"] { margin-block-start: 0.5em; }
:focus-visible { outline: 3px solid var(--_accent); outline-offset: 2px; }
@media (forced-colors: active) {
  [part~="older"][aria-disabled] { color: GrayText; opacity: 1; }
}
`;

/**
 * A row takes the same height in every state: one line of texts, or two where there is little room. So a job that changes
 * moves no other.
 */
export const ROW_CSS = `${CSS}
:host { container-type: inline-size; }
[part~="track"] { margin-block: 0.25em; }
[part~="text"] {
  display: flex;
  min-block-size: 1.5em;
  min-block-size: 1lh;
}
[part~="note"]:not(:empty) { margin-inline-end: 1em; }
[part~="progress"] { flex: 0 1 auto; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
[part~="detail"] { flex: 1 1 0; grid-auto-rows: max-content; min-inline-size: 0; }
[part~="detail"]:not([data-expanded]) {
  max-block-size: 1.5em;
  max-block-size: 1lh;
}
[part~="detail"]:not([data-expanded]) :is([part~="error"], [part~="message"]) { -webkit-line-clamp: 1; }
[part~="actions"] { align-items: center; }
[part~="cancel"] { min-inline-size: 0; padding-block: 0; }
@container (max-width: 34rem) {
  [part~="text"] { display: block; flex-basis: 10em; min-block-size: 3em; min-block-size: 2lh; }
  [part~="progress"] { white-space: normal; }
  [part~="actions"] { flex-direction: column; align-items: end; gap: 0; }
}
`;
