/** The clipboard. A browser may not allow its use: without a secure context, or without a permission. */

/** Why a text is not copied; what to do instead follows it. */
export const NOT_COPIED = "The browser does not allow copying.";

/** Copy a text; return whether the browser allows it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
