/** The log of a job, as far as this tab has it: pieces of text with rising byte offsets, each byte once. */

const MAX_BYTES = 64 * 1024; // as much as the server keeps

export class JobLog {
  #pieces = []; // the newest ones

  /** The offset after the last byte. A log is requested from its beginning, so that later watches get all of it. */
  end = 0;

  /** Add a piece of the server; return the part that is new, or null. */
  add({ job_id: _job, ...added }) {
    const piece = partAfter(added, this.end);
    if (!piece) return null;
    this.#pieces.push(piece);
    this.end = piece.to;
    while (piece.to - this.#pieces[0].to >= MAX_BYTES) this.#pieces.shift();
    return piece;
  }

  /** Return whether a piece is of another log than what this tab has: a log that is lost with Redis begins again at 0. */
  contradicts({ from, text }) {
    const known = this.piecesAfter(from).map((piece) => piece.text).join("");
    return from < this.end && !known.startsWith(text) && !text.startsWith(known);
  }

  /** Return what this tab has after an offset. */
  piecesAfter(offset) {
    return this.#pieces.map((piece) => partAfter(piece, offset)).filter(Boolean);
  }
}

/** Return the part of a piece after an offset, or null if there is none. */
export function partAfter(piece, offset) {
  const skipped = offset - piece.from;
  if (skipped <= 0) return piece;
  if (piece.to <= offset) return null;
  const text = new TextDecoder().decode(new TextEncoder().encode(piece.text).subarray(skipped));
  const { line: _line, ...others } = piece; // it is that of the first line
  return { ...others, from: offset, text };
}
