/** Terminal escape sequences in a log: colors and styles become classes, and all other sequences are left out. */

// A change of the style; any other control sequence; a string, such as a title or a link; any other escape sequence.
const SEQUENCE = /(?:\x1b\[|\x9b)([\d;:]*)m|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]?/g;
const INVISIBLE = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g; // controls, and those that reorder a line
const STYLES = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike", 21: "underline" };
const ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["strike"], 39: ["color"], 49: ["background"] };
const MAX_CODES = 32; // of one sequence; terminals keep no more either
const GRAY = 8;
const CUBE_START = 16; // of the 6 × 6 × 6 colors in the palette of 256
const CUBE_END = 232;

/** The style at the beginning of a log: `{bold, dim, italic, underline, inverse, strike, color, background}`, all unset. */
export const PLAIN = Object.freeze({});

/**
 * Parse a line. A carriage return begins it again, as in a progress bar.
 *
 * @param {string} text without its line break
 * @param {object} style the style at the end of the line before
 * @returns {{runs: {text: string, style: object}[], style: object}} the visible text in order, and the style at the end
 */
export function parseAnsi(text, style) {
  const runs = [];
  const add = (part) => {
    const restart = part.lastIndexOf("\r");
    if (restart >= 0) runs.length = 0;
    const visible = part.slice(restart + 1).replace(INVISIBLE, visibleText);
    if (visible) runs.push({ text: visible, style });
  };
  let length = text.length;
  while (text[length - 1] === "\r") length--;
  const line = text.slice(0, length);
  let end = 0;
  for (const match of line.matchAll(SEQUENCE)) {
    add(line.slice(end, match.index));
    if (match[1] !== undefined) style = styleAfter(style, match[1]);
    end = match.index + match[0].length;
  }
  add(line.slice(end));
  return { runs, style };
}

/** Return the classes of a style, "" for that of plain text. */
export function styleClasses(style) {
  return Object.entries(style).map(([name, value]) => `ansi-${name}${value === true ? "" : `-${value}`}`).join(" ");
}

/** Return a control character as a text that can be seen. */
function visibleText(character) {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

/** Return the style after the parameters of a sequence, such as "1;31" or "38;5;208". */
function styleAfter(style, parameters) {
  const codes = parameters.replaceAll("::", ":").split(/[;:]/, MAX_CODES).map(Number);
  let next = { ...style };
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) next = {};
    else if (STYLES[code]) next[STYLES[code]] = true;
    else if (ENDS[code]) for (const name of ENDS[code]) delete next[name];
    else if (code === 38 || code === 48) setColor(next, code === 38 ? "color" : "background", paletteColor(codes));
    else if ((code >= 30 && code < 48) || (code >= 90 && code < 108)) setBasicColor(next, code);
  }
  return next;
}

/** Set the color of a code from 30 to 37, from 40 to 47, or of a bright one from 90 on. */
function setBasicColor(style, code) {
  const [color, isBackground, isBright] = [code % 10, [4, 10].includes(Math.floor(code / 10)), code >= 90];
  if (color < 8) setColor(style, isBackground ? "background" : "color", color + (isBright ? 8 : 0));
}

/**
 * Set a color of the terminal's palette: one of six hues, or gray. A page has its own black, white and brightness, which
 * depend on its scheme.
 */
function setColor(style, name, color) {
  const hue = color === GRAY ? GRAY : color % 8;
  if (hue === 0 || hue === 7) delete style[name];
  else style[name] = hue;
}

/** Remove the rest of an extended color from the codes, and return the closest one of the 16 basic colors. */
function paletteColor(codes) {
  if (codes.shift() !== 5) return hueOf(codes.splice(0, 3));
  const index = codes.shift() ?? 0;
  if (index < CUBE_START) return index;
  if (index >= CUBE_END) return GRAY;
  const position = index - CUBE_START;
  return hueOf([Math.floor(position / 36), Math.floor(position / 6) % 6, position % 6]);
}

/** Return the basic color that is closest in hue: its bits are red, green and blue. */
function hueOf(channels) {
  const [least, most] = [Math.min(...channels), Math.max(...channels)];
  if (!(least < 0.75 * most)) return GRAY;
  return channels.reduce((hue, channel, bit) => hue | ((channel > (least + most) / 2) << bit), 0);
}
