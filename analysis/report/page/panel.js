/** Held-out prefixes: one distribution through all updates, the same prefix under every method. */

const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7d0a", "#56b4e9"]; // Okabe and Ito, the yellow darkened
const MOST_LINES = LINES.length;

/** Prefixes by what they say: rows of all runs that follow the same one, in the order of the runs. */
const prefixes = [];
function indexPrefixes() {
  const found = new Map();
  for (let row = 0; row < columns["rollout.run"].length; row += 1) {
    if (!columns["rollout.panel"][row]) continue;
    const words = [...idsOf(row)].map((id) => wordOf(row, id)).join("\u0000");
    const key = `${columns["rollout.rollout"][row]} ${columns["rollout.prompt"][row]} ${words}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(row);
  }
  prefixes.push(...found.values());
}

/** The prefix of the address, the row of the run of the address in it, and the token of the update of the address. */
function panelState() {
  const rows = prefixes[Math.min(Math.max(0, numeric("prefix", 0)), prefixes.length - 1)];
  const row = rows.find((candidate) => columns["rollout.run"][candidate] === numeric("run", -1)) ?? rows[0];
  const updates = columns["token.update"].subarray(firstToken[row], firstToken[row + 1]);
  const wanted = numeric("at", updates[0]);
  const at = updates.findLastIndex((update) => update <= wanted);
  return { rows, row, updates, at: Math.max(0, at), token: firstToken[row] + Math.max(0, at) };
}

function drawPanel() {
  if (!prefixes.length) {
    return h("p", { class: "warn" }, "No held-out prefix was followed in these runs (record.contexts of the recipe).");
  }
  const { rows, row, updates, at } = panelState();
  const named = h("output", { for: "update-slider" }, `update ${updates[at]}`);
  const slider = h("input", {
    type: "range",
    id: "update-slider",
    min: 0,
    max: updates.length - 1,
    step: 1,
    value: at,
    "aria-label": "Update",
    "aria-valuetext": named.textContent,
    oninput: (event) => {
      named.textContent = `update ${updates[Number(event.target.value)]}`;
      event.target.setAttribute("aria-valuetext", named.textContent);
      change({ at: updates[Number(event.target.value)] }, true);
    },
  });
  return h(
    "div",
    {},
    h(
      "form",
      { class: "controls", onsubmit: (event) => event.preventDefault() },
      choice(
        "Prefix",
        prefixes.map((group, index) => [index, shortened(visibleText(textOfPrefix(group[0])), 60)]),
        prefixes.indexOf(rows),
        (value) => change({ prefix: value }),
      ),
      choice(
        "Method",
        rows.map((candidate) => [columns["rollout.run"][candidate], nameOfRun(columns["rollout.run"][candidate])]),
        columns["rollout.run"][row],
        (value) => change({ run: value }),
      ),
      h("div", { class: "field" }, named, slider),
    ),
    h("p", {}, "Prefix: ", promptOf(row), " ", wordsBefore(row)),
    h(
      "div",
      { class: "split" },
      h("section", { "aria-label": "Through training" }, [
        h("h3", {}, "The largest probabilities before each update"),
        h(
          "div",
          { class: "charts" },
          rows.map((candidate) => lineChart(chartOfPrefix(candidate), "update")),
        ),
        h("p", { class: "note" }, "Held out: no response to this prompt is trained on, so what moves it is shared."),
      ]),
      detailOf(),
    ),
  );
}

const textOfPrefix = (row) => {
  const ids = [...idsOf(row)].slice(0, -1);
  return [header.prompts[columns["rollout.prompt"][row]], ...ids.map((id) => wordOf(row, id))].join(" ");
};

const shortened = (text, longest) => (text.length > longest ? `${text.slice(0, longest)}…` : text);

/** The tokens of the response before the one that is followed. */
const wordsBefore = (row) =>
  [...idsOf(row)]
    .slice(0, -1)
    .map((id) => h("span", { class: `t${special(row, id)}`, dir: "auto" }, visible(wordOf(row, id))));

/** π of the tokens that are largest at any update, as a chart over updates. */
function chartOfPrefix(row) {
  const largest = new Map();
  const read = [];
  for (let token = firstToken[row]; token < firstToken[row + 1]; token += 1) {
    const outcomes = outcomesOf(flowOf(token));
    read.push([columns["token.update"][token], new Map(outcomes.map((one) => [one.id, one.before]))]);
    for (const one of outcomes) largest.set(one.id, Math.max(largest.get(one.id) ?? 0, one.before));
  }
  const ids = [...largest]
    .sort((a, b) => b[1] - a[1])
    .slice(0, MOST_LINES)
    .map(([id]) => id);
  const series = ids.map((id, index) => ({
    label: visible(wordOf(row, id), 14),
    color: LINES[index],
    points: read
      .filter(([, probs]) => probs.has(id))
      .map(([update, probs]) => [null, update, null, probs.get(id), null, null]),
  }));
  return { axis: "step", key: "prefix", title: nameOfRun(columns["rollout.run"][row]), unit: "probability", series };
}
