/** Elements of the pages. Texts of jobs and workers are children, which are shown as text, never as markup. */

const SVG = "http://www.w3.org/2000/svg";
const created = new WeakMap(); // by child: what `arrange` has created
const styleSheets = new Map(); // by name: when it has loaded

/**
 * Create an element.
 *
 * @param {string} tag
 * @param {object} [attributes] by name. A function is called for the event of this name; true sets an attribute without a
 *   value; null, undefined and false set none
 * @param {...(Node | string | null | undefined | false)} children what is missing is left out
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Create an SVG element in the same way. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else setAttribute(element, name, value);
  }
  element.append(...children.flat().filter((child) => child || child === 0));
  return element;
}

/** Set an attribute unless it has this value; null, undefined and false remove it. */
export function setAttribute(element, name, value) {
  const text = value === true ? "" : value;
  if (text === null || text === undefined || text === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(text)) element.setAttribute(name, text);
}

/**
 * Show one child for each key, in this order. A child that stays is not moved if it need not be; one that moves keeps its
 * focus.
 *
 * @template T
 * @param {Element} parent has no other children
 * @param {Iterable<string>} keys
 * @param {(key: string) => T} create returns the child, or an object that has it as its `element`
 * @returns {Map<string, T>} by key what was created, now or before
 */
export function arrange(parent, keys, create) {
  const children = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(keys);
  for (const [key, child] of children) if (!wanted.has(key)) child.remove();
  const focused = document.activeElement;
  const all = new Map();
  let place = parent.firstElementChild;
  for (const key of wanted) {
    const child = children.get(key) ?? createChild(key, create);
    all.set(key, created.get(child));
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
  return all;
}

function createChild(key, create) {
  const object = create(key);
  const child = object.element ?? object;
  child.dataset.key = key;
  created.set(child, object);
  return child;
}

/** Load a style sheet of a view, once; resolves when it applies. */
export function loadStyles(name) {
  if (styleSheets.has(name)) return styleSheets.get(name);
  const link = h("link", { rel: "stylesheet", href: `/assets/${name}` });
  const loading = new Promise((resolve) => {
    link.onload = resolve;
    link.onerror = () => {
      link.remove();
      styleSheets.delete(name); // it is requested again when it is needed again
      resolve();
    };
  });
  styleSheets.set(name, loading);
  document.head.append(link);
  return loading;
}
