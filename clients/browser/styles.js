/**
 * The element's default styles. Font and text color are inherited from the page; the other colors follow its
 * `color-scheme`. Every line reserves its height, so the layout does not shift when text appears.
 */

export const CSS = `
:host {
  --_accent: var(--headway-tone, light-dark(#0c6a6b, #63cabf));
  --_warning: var(--headway-warning, light-dark(#9a6a1f, #e2b661));
  --_alarm: var(--headway-alarm, light-dark(#a53220, #f29480));
  --_soft: var(--headway-soft, color-mix(in oklab, currentColor 72%, transparent));
  --_track: var(--headway-track, color-mix(in oklab, currentColor 16%, transparent));
  --_tone: var(--_accent);
  display: block;
  line-height: 1.5;
  overflow-wrap: anywhere;
}
:host([hidden]), [hidden] { display: none !important; }
:host(:state(retrying)), :host(:state(lost)) { --_tone: var(--_warning); }
:host(:state(failed)) { --_tone: var(--_alarm); }
:host(:state(waiting)), :host(:state(queued)), :host(:state(cancelled)) { --_tone: var(--_soft); }

[part~="head"], [part~="foot"] {
  display: flex;
  justify-content: space-between;
  column-gap: 1em;
}
[part~="label"] { font-weight: 600; }
[part~="status"] { margin-inline-start: 0.6em; }
[part~="percent"], [part~="actions"] { white-space: nowrap; }
[part~="percent"], [part~="text"] { font-variant-numeric: tabular-nums; }
[part~="status"], [part~="amount"], [part~="message"] { color: var(--_soft); }

[part~="track"] {
  block-size: var(--headway-bar-size, 0.5em);
  margin-block: 0.4em;
  border-radius: var(--headway-radius, 1em);
  background: var(--_track);
  overflow: hidden;
}
[part~="bar"] {
  block-size: 100%;
  inline-size: 0;
  border-radius: inherit;
  background: var(--_tone);
  transition: inline-size 0.3s ease-out;
}
:host(:state(indeterminate)) [part~="bar"] {
  inline-size: 100%;
  background: linear-gradient(90deg, transparent 25%, var(--_tone) 50%, transparent 75%) 0 0 / 200% 100%;
  transition: none;
  animation: drift 2.4s linear infinite;
}
@keyframes drift { from { background-position-x: 200%; } }

:host(:state(waiting):state(error)) :is([part~="track"], [part~="progress"]) { display: none; }
[part~="foot"] { flex-wrap: wrap; row-gap: 0.25em; }
[part~="text"] { flex: 1 1 12em; }
[part~="actions"] { display: flex; align-items: start; gap: 0.5em; margin-inline-start: auto; }
[part~="progress"], [part~="message"], [part~="error"] { margin: 0; min-block-size: 1lh; }
[part~="amount"], [part~="note"] { display: inline-block; }
[part~="amount"]:not(:empty) { margin-inline-end: 1em; }
:host(:state(reconnecting)) [part~="note"] { animation: appear 0.3s 0.5s both; }
@keyframes appear { from { opacity: 0; } }
[part~="error"] {
  padding-inline-start: 0.8em;
  border-inline-start: 3px solid var(--_alarm);
  white-space: pre-wrap;
}
[part~="cancel"] {
  padding: 0.15em 0.8em;
  border: 1px solid var(--_track);
  border-radius: 0.35em;
  background: none;
  color: inherit;
  font: inherit;
  font-size: 0.875em;
  cursor: pointer;
}
[part~="cancel"]:hover { border-color: currentColor; }
[part~="cancel"]:disabled { border-color: transparent; opacity: 0.75; cursor: default; }
[part~="cancel"]:focus-visible { outline: 3px solid var(--_accent); outline-offset: 2px; }

@media (prefers-reduced-motion: reduce) {
  [part~="bar"] { transition: none; }
  :host(:state(indeterminate)) [part~="bar"] {
    background: repeating-linear-gradient(90deg, var(--_tone) 0 0.5rem, transparent 0.5rem 1rem);
    animation: none;
  }
}
@media (forced-colors: active) {
  [part~="track"] { border: 1px solid CanvasText; }
  [part~="bar"], :host(:state(indeterminate)) [part~="bar"] { background: Highlight; forced-color-adjust: none; }
}
`;
