/** The claims of a token. They are read without verification: only the server checks the signature. */

/** The codes of errors for which another token may help. */
export const TOKEN_REJECTIONS = new Set(["invalid_token", "token_expired"]);

const MAX_LENGTH = 4096; // the server's limit

/**
 * Return the claims of a token, or null if it opens neither a job nor a list.
 *
 * @param {string} token
 * @returns {?{sub?: string, filter?: object, kind?: string, iat?: number, exp: number, scope?: string}} `sub` is the job's
 *   id, and `filter` selects the jobs of a list
 */
export function readClaims(token) {
  try {
    const [, payload] = token.split(".");
    const claims = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/")));
    return token.length <= MAX_LENGTH && (claims?.sub || claims?.filter) ? claims : null;
  } catch {
    return null;
  }
}

/** Return whether the claims of a token allow cancelling the job. */
export function mayCancel(claims) {
  return permissions(claims).includes("cancel");
}

/** Return whether a token is better: it has a scope that the other one lacks, allows more, or the same for longer. */
export function isBetterToken(token, other, scope) {
  const [rank, otherRank] = [token, other].map((each) => {
    const claims = readClaims(each);
    const allowed = permissions(claims);
    return [Number(allowed.includes(scope)), allowed.length, claims.exp];
  });
  const index = rank.findIndex((value, position) => value !== otherRank[position]);
  return index >= 0 && rank[index] > otherRank[index];
}

/** Return what the claims of a token allow beyond watching. */
function permissions(claims) {
  return (claims?.scope ?? "").split(" ").filter((name) => ["cancel", "details"].includes(name));
}
