/** What a watch token says; whether it may be believed is for the server to say. */

/**
 * @param {string} token
 * @returns {?{sub: string, kind?: string, iat?: number, exp: number, scope?: string}} null for what is no watch token
 */
export function readClaims(token) {
  try {
    const [, payload] = token.split(".");
    const claims = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/")));
    return claims?.sub ? claims : null;
  } catch {
    return null;
  }
}

/** Tell whether a token's bearer may cancel the job. */
export function mayCancel(claims) {
  return (claims?.scope ?? "").split(" ").includes("cancel");
}
