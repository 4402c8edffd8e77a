/** The claims of a watch token. They are read without verification: only the server checks the signature. */

/**
 * Return the claims of a token, or null if it is not a watch token.
 *
 * @param {string} token
 * @returns {?{sub: string, kind?: string, iat?: number, exp: number, scope?: string}} `sub` is the job's id
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

/** Return whether the claims of a token allow cancelling the job. */
export function mayCancel(claims) {
  return (claims?.scope ?? "").split(" ").includes("cancel");
}
