/**
 * JSON as a tree: objects and arrays open and close, numbers are shown as they were written, and web addresses are links.
 *
 * Its styles are in `json-tree.css`. A page that shows a tree loads them.
 */

import { copyButton } from "/assets/copy-button.js";
import { h } from "/assets/dom.js";
import { download } from "/assets/download.js";
import { showHidden } from "/assets/hidden-characters.js";

const OPEN_LEVELS = 2; // further levels are closed at first
const MAX_CHILDREN = 100; // more are shown in groups of this size, which are closed at first
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*|true|false|null|[[\]{}]/g;
const ADDRESS = /^https?:\/\/[^\s"<>]+$/i;
const TYPES = { t: "boolean", f: "boolean", n: "null", '"': "string" }; // by the first character; others are numbers

/**
 * Create the tree of a JSON text, with buttons that copy and download the text.
 *
 * @param {string} text JSON, or another text, which is shown as it is
 * @param {{label: string}} options what the text is, such as "Result"; also the name of the file
 */
export function jsonTree(text, { label }) {
  const tree = h("div", { class: "json-tree", role: "group", "aria-label": label, tabindex: 0, translate: "no" }, rootOf(text));
  const name = label.toLowerCase();
  const save = h("button", { type: "button", class: "plain link", click: () => download(text, `${name}.json`, "application/json") }, "Download", h("span", { class: "visually-hidden" }, ` ${name}`));
  return h("div", { class: "json" }, tree, h("div", { class: "json-actions" }, copyButton(name, () => text), save));
}

function rootOf(text) {
  try {
    return element(parse(text), 0);
  } catch {
    return h("bdi", { class: "json-text" }, text); // it is not JSON
  }
}

/**
 * Parse JSON to nodes `{key, token, children}`: the key in an object, null elsewhere; the text of a string, a number, a
 * boolean or null, or the bracket of an array or an object; and the nodes in those. It does not recurse: texts may be deep.
 */
function parse(text) {
  JSON.parse(text); // throws unless it is JSON
  const root = { token: "[", children: [] };
  const open = [root];
  let key = null;
  for (const [token] of text.matchAll(TOKENS)) {
    const parent = open.at(-1);
    if (token === "]" || token === "}") {
      open.pop();
    } else if (parent.token === "{" && key === null) {
      key = JSON.parse(token);
    } else {
      const node = { key, token, children: token === "[" || token === "{" ? [] : null };
      parent.children.push(node);
      if (node.children) open.push(node);
      key = null;
    }
  }
  return root.children[0];
}

/** Create the element of a node, with its key in an object or its index in an array. */
function element(node, level, index = null) {
  const name = node.key === null ? index : showHidden(node.key);
  const key = name === null ? null : [h("bdi", { class: node.key === null ? "json-index" : "json-key" }, name), ": "];
  if (!node.children?.length) return h("div", { class: "json-leaf" }, key, valueOf(node));
  const summary = [key, h("span", { class: "json-count" }, countText(node))];
  return branch(summary, level < OPEN_LEVELS, () => childElements(node, level + 1));
}

/** Return the elements of a node's children, in groups if there are many. */
function childElements({ token, children }, level) {
  const elements = (from, to) => children.slice(from, to).map((child, offset) => element(child, level, token === "[" ? from + offset : null));
  if (children.length <= MAX_CHILDREN) return elements(0);
  return Array.from({ length: Math.ceil(children.length / MAX_CHILDREN) }, (_, group) => {
    const from = group * MAX_CHILDREN;
    const to = Math.min(from + MAX_CHILDREN, children.length);
    return branch([h("span", { class: "json-count" }, `${from} … ${to - 1}`)], false, () => elements(from, to));
  });
}

/** Create a part that opens and closes. Its children are created when it first opens. */
function branch(summary, isOpen, children) {
  const list = h("ul", {});
  const fill = () => list.hasChildNodes() || list.append(...children().map((child) => h("li", {}, child)));
  if (isOpen) fill();
  return h("details", { open: isOpen, toggle: (event) => event.target.open && fill() }, h("summary", {}, ...summary), list);
}

function countText({ token, children }) {
  return token === "{" ? `{${children.length}}` : `[${children.length}]`;
}

function valueOf({ token, children }) {
  if (children) return h("span", { class: "json-count" }, token === "{" ? "{}" : "[]");
  const type = TYPES[token[0]] ?? "number";
  if (type !== "string") return h("span", { class: `json-${type}` }, token);
  const value = JSON.parse(token);
  const text = showHidden(value);
  const isAddress = ADDRESS.test(value) && URL.canParse?.(value);
  const link = isAddress && h("a", { href: value, target: "_blank", rel: "noopener noreferrer" }, text);
  return [quote(), h("bdi", { class: "json-string" }, link || text), quote()];
}

/** Create a quotation mark: in the text, so that copies and screen readers have it, too. */
function quote() {
  return h("span", { class: "json-quote" }, '"');
}
