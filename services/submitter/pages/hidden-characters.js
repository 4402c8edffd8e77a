/** Characters of a text that are not seen: controls, and those that change the direction of the text after them. */

const HIDDEN = /[\0-\x08\x0b-\x1f\x7f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g; // not tab, newline, nor what joins an emoji

/** Return a text in which hidden characters are visible as JSON has them, such as `\u202e`: in JSON they keep their meaning. */
export function showHidden(text) {
  return text.replace(HIDDEN, (character) => `\\u${character.charCodeAt().toString(16).padStart(4, "0")}`);
}

/** Show the hidden characters of a field for JSON, also those that are pasted; the cursor stays where it is. */
export function showHiddenIn(field) {
  field.addEventListener("input", ({ isComposing }) => {
    const text = showHidden(field.value);
    if (isComposing || text === field.value) return;
    const position = showHidden(field.value.slice(0, field.selectionEnd)).length;
    field.value = text;
    field.setSelectionRange(position, position);
  });
}
