/** The dialog that lists the keyboard shortcuts. */

import { h } from "/assets/dom.js";
import { openDialog } from "/assets/dialogs.js";

const KEY_TEXTS = { " ": "Space", Enter: "Enter", "Ctrl+k": "Ctrl K" };

/** Open the dialog. */
export function open({ keyboard }) {
  const rows = byLabel(keyboard.shown).map(([label, keys]) => h("div", {}, h("dt", {}, ...keys.map(keyElement)), h("dd", {}, label)));
  const single = h("input", { type: "checkbox", checked: keyboard.singleKeys, change: () => (keyboard.singleKeys = single.checked) });
  const note = h("p", { class: "soft" }, "Turn them off if you use speech input: a spoken word could trigger them.");
  const close = h("button", { class: "button main", autofocus: true }, "Close");
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "help-title" }, "Keyboard shortcuts"),
    h("dl", { class: "keys" }, ...rows),
    h("div", {}, h("label", { class: "check" }, single, "Shortcuts of a single key"), note),
    h("div", { class: "choices" }, close),
  );
  openDialog(h("dialog", { "aria-labelledby": "help-title" }, form));
}

function byLabel(shown) {
  const keys = new Map();
  for (const { key, label } of shown) keys.set(label, [...(keys.get(label) ?? []), key]);
  return [...keys];
}

function keyElement(key) {
  return h("kbd", {}, KEY_TEXTS[key] ?? key);
}
