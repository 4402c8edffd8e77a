/**
 * The default styles of `<headway-job>`. Font and text color are inherited from the page; the other colors follow its
 * `color-scheme`. Three lines are reserved for texts, and a place for the button, so the layout does not shift when they
 * appear or disappear. Only `transform` and `opacity` are animated, which needs no layout.
 *
 * The states are also in the attribute `data-states` of the part `job`, because browsers before 2024 have no `:state()`.
 * They also have no `light-dark()`, and the first value of such a property is for them.
 */

/** The colors of all elements, which follow the `color-scheme` of the page. */
export const COLORS = `
:host {
  --_accent: var(--headway-tone, #2a8585);
  --_warning: var(--headway-warning, #b07a24);
  --_alarm: var(--headway-alarm, #d0503c);
  --_soft: var(--headway-soft, currentColor);
  --_track: var(--headway-track, rgb(128 128 128 / 0.3));
}
@supports (color: light-dark(red, red)) and (color: color-mix(in oklab, red 50%, red)) {
  :host {
    --_accent: var(--headway-tone, light-dark(#0c6a6b, #63cabf));
    --_warning: var(--headway-warning, light-dark(#84591a, #e2b661));
    --_alarm: var(--headway-alarm, light-dark(#a53220, #f29480));
    --_soft: var(--headway-soft, color-mix(in oklab, currentColor 72%, transparent));
    --_track: var(--headway-track, color-mix(in oklab, currentColor 16%, transparent));
  }
}
`;

export const CSS = `${COLORS}
:host {
  display: block;
  line-height: 1.5;
  overflow-wrap: anywhere;
}
:host([hidden]), [hidden] { display: none !important; }

[part~="job"] { --_tone: var(--_accent); display: contents; }
[data-states~="retrying"], [data-states~="stalled"], [data-states~="lost"] { --_tone: var(--_warning); }
[data-states~="failed"] { --_tone: var(--_alarm); }
[data-states~="waiting"], [data-states~="queued"], [data-states~="cancelled"] { --_tone: var(--_soft); }

[part~="head"], [part~="foot"] {
  display: flex;
  justify-content: space-between;
  column-gap: 1em;
}
[part~="label"] { font-weight: 600; }
[part~="state"] { display: inline-block; margin-inline-start: 0.6em; white-space: nowrap; }
[part~="icon"]:empty { display: none; }
[part~="icon"] svg {
  inline-size: 1em;
  block-size: 1em;
  margin-inline-end: 0.35em;
  fill: none;
  stroke: var(--_tone);
  stroke-width: 1.7;
  stroke-linecap: round;
  stroke-linejoin: round;
  vertical-align: -0.15em;
}
[part~="percent"], [part~="actions"] { white-space: nowrap; }
[part~="percent"], [part~="text"] { font-variant-numeric: tabular-nums; }
[part~="status"], [part~="amount"], [part~="message"] { color: var(--_soft); }

[part~="track"] {
  block-size: var(--headway-bar-size, 0.5em);
  margin-block: 0.4em;
  border-radius: var(--headway-radius, 1em);
  background: var(--_track);
  overflow: hidden;
  transition: opacity 0.3s 0.5s;
}
[part~="bar"] {
  block-size: 100%;
  background: var(--_tone);
  transform: scaleX(0);
  transition: transform 0.3s ease-out;
}
[data-states~="indeterminate"] [part~="track"] { direction: ltr; }
[data-states~="indeterminate"] [part~="bar"] {
  inline-size: 50%;
  background: linear-gradient(90deg, transparent, var(--_tone), transparent);
  transition: none;
  animation: drift 2.4s linear infinite;
}
@keyframes drift {
  from { transform: translateX(-100%); }
  to { transform: translateX(200%); }
}
[data-states~="stale"] [part~="track"] { opacity: 0.5; }
[data-states~="stale"] [part~="bar"], [data-states~="stalled"] [part~="bar"] { animation-play-state: paused; }

[data-states~="waiting"][data-states~="error"] :is([part~="track"], [part~="progress"]) { display: none; }
[part~="foot"] { flex-wrap: wrap; row-gap: 0.25em; }
[part~="text"] {
  flex: 1 1 12em;
  min-inline-size: 0;
  min-block-size: 4.5em;
  min-block-size: 3lh;
}
[part~="actions"] { display: flex; align-items: start; gap: 0.5em; margin-inline-start: auto; }
[part~="progress"], [part~="message"], [part~="error"] { margin: 0; }
[part~="progress"] { min-block-size: 1.5em; min-block-size: 1lh; }
[part~="amount"], [part~="note"] { display: inline-block; }
[part~="amount"]:not(:empty) { margin-inline-end: 1em; }
[data-states~="stale"] [part~="note"], [data-states~="queued"] [part~="note"] { animation: appear 0.3s 0.5s both; }
@keyframes appear { from { opacity: 0; } }

[part~="detail"] {
  display: grid;
  grid-template-columns: minmax(0, 1fr) auto;
  align-content: start;
  column-gap: 1em;
}
[part~="error"], [part~="message"] { grid-column: 1; }
[part~="error"] {
  padding-inline-start: 0.8em;
  border-inline-start: 3px solid var(--_alarm);
  white-space: pre-wrap;
}
[part~="error"], [part~="message"] {
  display: -webkit-box;
  -webkit-box-orient: vertical;
  -webkit-line-clamp: 2;
  overflow: hidden;
}
[part~="error"]:not([hidden]) + [part~="message"] { -webkit-line-clamp: 1; }
[part~="detail"]:not([data-expanded]) {
  max-block-size: 3em;
  max-block-size: 2lh;
  clip-path: inset(-0.5em -0.5em 0); /* not the outline of the button */
}
[part~="detail"]:not([data-expanded]) [part~="attempts"], [part~="attempts"]:empty { display: none; }
[part~="attempts"] {
  grid-area: 3 / 1 / auto / -1;
  margin: 0.25em 0 0;
  padding: 0;
  color: var(--_soft);
  list-style: none;
}
[part~="detail"][data-expanded] :is([part~="error"], [part~="message"]) { -webkit-line-clamp: none; }

[part~="expand"], [part~="cancel"] {
  border: 1px solid transparent;
  border-radius: 0.35em;
  background: none;
  color: inherit;
  font: inherit;
  font-size: 0.875em;
  cursor: pointer;
}
[part~="expand"] { grid-area: 1 / 2 / span 2; align-self: start; padding: 0; text-decoration: underline; }
[part~="cancel"] { min-inline-size: 7.5em; padding: 0.15em 0.8em; border-color: var(--_track); }
[part~="cancel"][data-reserved] { display: inline-block !important; visibility: hidden; }
[part~="cancel"]:hover { border-color: currentColor; }
[part~="cancel"][aria-disabled] { border-color: transparent; opacity: 0.75; cursor: default; }
[part~="job"] :focus-visible { outline: 3px solid var(--_accent); outline-offset: 2px; }

@media (max-width: 30rem) {
  [part~="text"] { flex-basis: 100%; }
}
@media (prefers-reduced-motion: reduce) {
  [part~="track"], [part~="bar"] { transition: none; }
  [part~="job"] [part~="note"] { animation: none; }
  [data-states~="indeterminate"] [part~="bar"] {
    inline-size: 100%;
    background: repeating-linear-gradient(90deg, var(--_tone) 0 0.5rem, transparent 0.5rem 1rem);
    transform: none;
    animation: none;
  }
}
@media (forced-colors: active) {
  [part~="icon"] svg { stroke: CanvasText; }
  [part~="track"] { border: 1px solid CanvasText; }
  [data-states~="stale"] [part~="track"] { opacity: 1; border-style: dashed; }
  [part~="bar"] { background: Highlight; forced-color-adjust: none; }
  [data-states~="indeterminate"] [part~="bar"] {
    background: repeating-linear-gradient(90deg, Highlight 0 0.5rem, Canvas 0.5rem 1rem);
  }
  [part~="cancel"][aria-disabled] { border-color: GrayText; color: GrayText; opacity: 1; }
}
`;
