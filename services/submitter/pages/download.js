/** Texts that are offered as files. */

import { h } from "/assets/dom.js";

const REVOKE_MS = 10_000; // after which a download has begun

/** Offer a text as a file. */
export function download(text, name, type) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), REVOKE_MS);
}
