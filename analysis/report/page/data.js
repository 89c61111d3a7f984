/**
 * The data of the page: a header as JSON, and columns of numbers in one gzip block.
 *
 * @typedef {{id: string, label: string, seed: number|null, status: string, steps: number|null, engine: string,
 *   temperature: number, color: string, vocabulary: number, weights: string, versions: Object<string, string>}} RunInfo
 * @typedef {{axis: string, key: string, title: string, unit: string,
 *   series: {label: string, color: string, points: (number|null)[][]}[]}} Chart
 */

const header = JSON.parse(document.getElementById("header").textContent);

/** @type {Object<string, Float32Array|Uint32Array|Int32Array|Uint8Array|Int8Array>} name -> values */
const columns = {};

/** Unpack the block of numbers. */
async function unpack() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack gzip; use Firefox 113, Chrome 80, Safari 16.4, or newer.");
  }
  const element = document.getElementById("block");
  const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
  element.remove(); // megabytes that nothing reads again
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const types = { Float32Array, Uint32Array, Int32Array, Uint8Array, Int8Array };
  for (const [name, { type, offset, length }] of Object.entries(header.columns)) {
    columns[name] = new types[type](buffer, offset, length);
  }
}

const UNKNOWN = -128; // of an int8 column
const MINUS = "\u2212";

/** Maps token id -> text, and ids of special tokens, one pair for each vocabulary. */
const vocabularies = header.vocabularies.map(({ ids, texts, special }) => ({
  text: new Map(ids.map((id, at) => [id, texts[at]])),
  special: new Set(special),
}));

/** @returns {RunInfo} the run of a rollout row */
const runOf = (row) => header.runs[columns["rollout.run"][row]];
/** The label of a run, with its id where several have that label. */
const nameOfRun = (at) => {
  const { id, label } = header.runs[at];
  return header.runs.filter((run) => run.label === label).length > 1 ? `${label}, ${id}` : label;
};
const vocabularyOf = (row) => vocabularies[runOf(row).vocabulary];
const wordOf = (row, id) => vocabularyOf(row).text.get(id) ?? `#${id}`;

/** Tokens of a rollout row are neighbours: the first, and one past the last. */
let firstToken;
function indexTokens() {
  const rows = columns["token.row"];
  firstToken = new Uint32Array(columns["rollout.run"].length + 1);
  for (const row of rows) firstToken[row + 1] += 1;
  for (let row = 0; row < firstToken.length - 1; row += 1) firstToken[row + 1] += firstToken[row];
}

/** +1 rewarded, −1 unrewarded, 0 unknown. */
const signOf = (row) => columns["rollout.sign"][row];

/** A token's name in addresses; it survives that the page is written again. */
function nameOfToken(token) {
  const row = columns["token.row"][token];
  const parts = [columns["rollout.step"][row], columns["rollout.rollout"][row]];
  return [runOf(row).id, ...parts, columns["token.position"][token], columns["token.update"][token]].join("~");
}

/** @returns {number} the token of a name; −1 where this page does not hold it */
function tokenOfName(name) {
  const parts = (name ?? "").split("~");
  if (parts.length < 5) return -1;
  const [step, rollout, position, update] = parts.slice(-4).map(Number);
  const id = parts.slice(0, -4).join("~");
  for (let row = 0; row < columns["rollout.run"].length; row += 1) {
    if (columns["rollout.step"][row] !== step || columns["rollout.rollout"][row] !== rollout) continue;
    if (runOf(row).id !== id) continue;
    for (let token = firstToken[row]; token < firstToken[row + 1]; token += 1) {
      if (columns["token.position"][token] === position && columns["token.update"][token] === update) return token;
    }
  }
  return -1;
}
