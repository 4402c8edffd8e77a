/** What the custom elements have in common: attributes, properties and states. */

/** Return the element's custom states: a set that has no effect in browsers that do not support them, or other names. */
export function customStatesOf(element, initial) {
  try {
    const { states } = element.attachInternals();
    states.add(initial);
    return states;
  } catch {
    return new Set();
  }
}

export function isUrl(text) {
  try {
    return Boolean(new URL(text, document.baseURI));
  } catch {
    return false;
  }
}

/** Set an attribute to the value of its property; null removes it. */
export function reflect(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

/** Apply a property that the page set before the element was defined. */
export function upgradeProperty(element, name) {
  if (!Object.prototype.hasOwnProperty.call(element, name)) return;
  const value = element[name];
  delete element[name];
  element[name] = value;
}
