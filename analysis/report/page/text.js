/** How text of models is shown: white space, control and direction characters as signs that can be seen. */

const LONGEST_WORD = 40; // characters of one token in a line

/** One character as it is shown. */
function visibleCharacter(character) {
  const code = character.codePointAt(0);
  if (character === " ") return "␣";
  if (character === "\n") return "⏎";
  if (character === "\t") return "⇥";
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  const unseen =
    code === 0x7f ||
    (code >= 0x80 && code < 0xa0) ||
    code === 0xad ||
    (code >= 0x200b && code <= 0x200f) ||
    (code >= 0x2028 && code <= 0x202e) ||
    (code >= 0x2060 && code <= 0x2069) ||
    code === 0xfeff ||
    (code >= 0xd800 && code <= 0xdfff) ||
    (code >= 0xe0000 && code <= 0xe007f);
  return unseen ? `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›` : character;
}

/** @param {string} text @param {number} longest the rest is cut and marked by … */
function visible(text, longest = LONGEST_WORD) {
  const characters = Array.from(text);
  const shown = characters.slice(0, longest).map(visibleCharacter).join("");
  return characters.length > longest ? `${shown}…` : shown === "" ? "∅" : shown;
}

/** Text in sentences, and prompts, keep their spaces and lines; everything else that cannot be seen is shown. */
function visibleText(text, longest = Infinity) {
  const characters = Array.from(text);
  const shown = characters
    .slice(0, longest)
    .map((character) => (character === " " || character === "\n" ? character : visibleCharacter(character)))
    .join("");
  return characters.length > longest ? `${shown}…` : shown;
}

/** A number with so many digits, a true minus, and a dash where there is none. */
function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1e5 || size < 1e-3
      ? value.toExponential(Math.max(0, digits - 1))
      : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", MINUS);
}

/** The same with its sign. */
const signed = (value, digits = 3) => (value > 0 ? "+" : "") + number(value, digits);

const percent = (value) => `${Math.round(100 * value)}%`;
