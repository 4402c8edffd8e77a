/** The log of a job, as far as this tab has it: pieces of text with rising byte offsets, each byte once. */

const MAX_BYTES = 64 * 1024; // as much as the server keeps

export class JobLog {
  #pieces = []; // the newest ones
  #start;

  /** The offset after the last byte: what follows it is requested. */
  end;

  /** @param {number} [start] the offset from which the log is requested */
  constructor(start = 0) {
    this.#start = this.end = start;
  }

  /** Whether no piece has arrived yet. */
  get isEmpty() {
    return !this.#pieces.length;
  }

  /** Return whether all that follows an offset is here, or will arrive. */
  covers(offset) {
    return this.#start <= offset && offset <= this.end;
  }

  /** Add a piece of the server; return the part that is new, or null. */
  add({ job_id: _job, ...added }) {
    const piece = partAfter(added, this.end);
    if (!piece) return null;
    this.#pieces.push(piece);
    this.end = piece.to;
    while (piece.to - this.#pieces[0].to >= MAX_BYTES) this.#pieces.shift();
    return piece;
  }

  /**
   * Return whether a piece is of another log than what this tab has: a log that is lost with Redis begins again at 0.
   *
   * A piece from before the end is known, or another tab has requested it; otherwise the log is shorter than it was.
   */
  contradicts(piece) {
    if (piece.from >= this.end) return false;
    if (this.isEmpty) return piece.to <= this.end;
    const overlapping = this.#pieces.filter((known) => known.from < piece.to && piece.from < known.to);
    return !overlapping.length || overlapping.some((known) => !agree(known, piece));
  }

  /** Return what this tab has after an offset. */
  piecesAfter(offset) {
    return this.#pieces.map((piece) => partAfter(piece, offset)).filter(Boolean);
  }
}

/** Return whether two pieces that overlap have the same text there. */
function agree(piece, other) {
  const offset = Math.max(piece.from, other.from);
  const [text, otherText] = [piece, other].map((each) => partAfter(each, offset).text);
  return text.startsWith(otherText) || otherText.startsWith(text);
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
