"""Scripts that observe a page: accessibility, colors, layout shifts, announcements, and a translator."""

from __future__ import annotations

from functools import cache

from tests.browser.npm import PACKAGES

# Return what axe finds, and whether the page is wider than the window.
INSPECT = """async () => {
  const animations = document.getAnimations().filter(({ effect }) => effect.getComputedTiming().endTime < Infinity);
  for (const animation of animations) animation.finish(); // a text that still appears has too little contrast
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  return document.documentElement.scrollWidth > innerWidth ? [...found, "too wide"] : found;
}"""
# Return the share of each color in a picture, the largest first.
COLOR_SHARES = """async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  return [...counts.values()].map((count) => count / pixels.length).sort((one, other) => other - one);
}"""
# Add up the shifts of the layout, as the Layout Instability API defines them.
OBSERVE_SHIFTS = """
window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach(({ value }) => { window.shift += value; }))
  .observe({ type: "layout-shift", buffered: true });
"""
# Record the texts that a screen reader announces: those that live regions show after the page has been parsed.
RECORD_ANNOUNCEMENTS = """
window.announcements = [];
const observer = new MutationObserver((mutations) => {
  if (document.readyState === "loading") return;
  const regions = mutations.map(({ target }) => (target.closest ? target : target.parentElement))
    .map((target) => target?.closest("[role=status], [role=alert], [aria-live]"))
    .filter((region) => region && region.getAttribute("aria-live") !== "off");
  for (const region of new Set(regions)) if (region.textContent.trim()) announcements.push(region.textContent.trim());
});
const observe = (root) => observer.observe(root, { subtree: true, childList: true, characterData: true });
observe(document);
document.addEventListener("readystatechange", () => observer.takeRecords(), { once: true });
const attachShadow = Element.prototype.attachShadow;
Element.prototype.attachShadow = function (...options) {
  const root = attachShadow.apply(this, options);
  observe(root);
  return root;
};
"""
# Translate the page as browsers do: wrap each new text, unless the page forbids it, and count the texts.
TRANSLATE = """() => {
  window.translations = {};
  const translate = (node) => {
    const element = node.parentElement;
    if (!element || !node.data.trim() || element.closest("font, [translate=no], script")) return;
    const font = document.createElement("font");
    font.textContent = `${node.data} (translated)`;
    node.replaceWith(font);
    translations[element.id] = (translations[element.id] ?? 0) + 1;
  };
  const translateAll = (root) => {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const nodes = [];
    while (walker.nextNode()) nodes.push(walker.currentNode);
    nodes.forEach(translate);
  };
  translateAll(document.querySelector("main"));
  new MutationObserver((mutations) => mutations.forEach(({ addedNodes }) => addedNodes.forEach((node) => {
    if (node.nodeType === Node.TEXT_NODE) translate(node); else translateAll(node);
  }))).observe(document.querySelector("main"), { subtree: true, childList: true });
}"""


@cache
def axe() -> str:
    """Return the script that defines `axe`, which `INSPECT` needs."""
    return (PACKAGES / "axe-core" / "axe.min.js").read_text()
