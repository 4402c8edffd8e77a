/** Texts that are cut, and texts that are written only when they change. */

const lastTexts = new WeakMap(); // by element

/**
 * Set an element's text unless it was the last one set here; return whether it was written.
 *
 * The document is compared only before the first text: a translator may change it, and would have to translate the text
 * again. A write to a live region is also announced again.
 */
export function setText(element, text) {
  const newText = text ?? "";
  const lastText = lastTexts.get(element) ?? element.textContent;
  lastTexts.set(element, newText);
  if (lastText === newText) return false;
  element.textContent = newText;
  return true;
}

/** Return a text of at most so many characters: the beginning of a longer one, and an ellipsis. */
export function cutText(text, length) {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}
