/** The responses: searched, filtered, coloured, and two runs beside one another on the same prompts. */

const PER_PAGE = 25; // responses
const FIRST_WORDS = 300; // tokens of a response that are drawn before more are asked for

const quantityOfState = () => QUANTITIES.find((one) => one.key === state.by) ?? QUANTITIES[0];

/** Words of a response and of its prompt, for the search; made once. */
const searchable = [];
function textOf(row) {
  if (searchable[row] === undefined) {
    const words = [...idsOf(row)].map((id) => wordOf(row, id));
    const texts = [header.prompts[columns["rollout.prompt"][row]], words.join(" "), words.join("")];
    searchable[row] = texts.join("\n").toLowerCase();
  }
  return searchable[row];
}
const idsOf = (row) =>
  columns["rollout.ids"].subarray(columns["rollout.ids.start"][row], columns["rollout.ids.start"][row + 1]);

/** Whether a token passes the filters on single tokens. */
function tokenFilter() {
  const [entropy, weight] = [numeric("entropy", -Infinity), numeric("weight", -Infinity)];
  const brush = brushOfState();
  if (entropy === -Infinity && weight === -Infinity && !brush && !state.followed) return null;
  return (token) =>
    (entropy === -Infinity || columns["token.entropy"][token] >= entropy) &&
    (weight === -Infinity || Math.abs(columns["token.weight"][token]) >= weight) &&
    (!state.followed || flowOf(token) >= 0) &&
    (!brush || inBrush(token, brush));
}

/** @returns {number[]} rollout rows of a run that pass the filters; run −1 for all */
function rowsOf(run) {
  const wanted = (state.q ?? "").trim().toLowerCase();
  const [step, sign, passes] = [numeric("step", -1), state.reward ?? "", tokenFilter()];
  const rows = [];
  for (let row = 0; row < columns["rollout.run"].length; row += 1) {
    if (columns["rollout.panel"][row]) continue;
    if (run >= 0 && columns["rollout.run"][row] !== run) continue;
    if (step >= 0 && columns["rollout.step"][row] !== step) continue;
    if (sign && signOf(row) !== { rewarded: 1, unrewarded: -1, unknown: 0 }[sign]) continue;
    if (passes && !some(firstToken[row], firstToken[row + 1], passes)) continue;
    if (wanted && !textOf(row).includes(wanted)) continue;
    rows.push(row);
  }
  return rows;
}
function some(from, to, test) {
  for (let at = from; at < to; at += 1) if (test(at)) return true;
  return false;
}

function drawRollouts() {
  if (!columns["token.row"].length) {
    return h(
      "p",
      { class: "warn" },
      "No tokens were recorded in these runs: record.tokens and record.contexts of the recipe say how many are.",
    );
  }
  const list = h("section", { "aria-label": "Responses", id: "list" }, listOf());
  return h("div", {}, controls(), legend(quantityOfState()), h("div", { class: "split" }, list, detailOf()));
}

function controls() {
  const runs = header.runs.map((run, at) => [at, nameOfRun(at)]);
  const first = { page: null };
  const steps = stepsShown();
  const step = numeric("step", -1);
  const named = h("output", { for: "step-slider" }, step < 0 ? "all steps" : `step ${step}`);
  const slider = h("input", {
    type: "range",
    id: "step-slider",
    min: -1,
    max: steps.length - 1,
    step: 1,
    value: steps.indexOf(step),
    "aria-label": "Step; leftmost is all steps",
    "aria-valuetext": named.textContent,
    oninput: (event) => {
      const at = Number(event.target.value);
      named.textContent = at < 0 ? "all steps" : `step ${steps[at]}`;
      event.target.setAttribute("aria-valuetext", named.textContent);
      change({ step: at < 0 ? null : steps[at], page: null }, true);
    },
  });
  return h(
    "form",
    { class: "controls", onsubmit: (event) => event.preventDefault() },
    entry("Search", { type: "search", value: state.q ?? "", placeholder: "prompt or response", name: "q" }, (value) =>
      change({ q: value, ...first }),
    ),
    choice("Method", [["", "all"], ...runs], state.run ?? "", (value) => change({ run: value, ...first })),
    header.runs.length > 1
      ? choice("Beside", [["", "nothing"], ...runs], state.beside ?? "", (value) => change({ beside: value, ...first }))
      : null,
    choice(
      "Reward",
      [
        ["", "any"],
        ["rewarded", "rewarded"],
        ["unrewarded", "unrewarded"],
        ["unknown", "unknown"],
      ],
      state.reward ?? "",
      (value) => change({ reward: value, ...first }),
    ),
    choice(
      "Outcome",
      [
        ["", "any"],
        ["1", "with followed tokens"],
      ],
      state.followed ?? "",
      (value) => change({ followed: value, ...first }),
    ),
    entry(
      "Entropy from",
      { type: "number", step: "any", min: 0, value: state.entropy ?? "", style: "width:6rem" },
      (value) => change({ entropy: value, ...first }),
    ),
    entry(
      "|weight| from",
      { type: "number", step: "any", min: 0, value: state.weight ?? "", style: "width:7rem" },
      (value) => change({ weight: value, ...first }),
    ),
    h("div", { class: "field" }, named, slider),
    choice(
      "Colour by",
      QUANTITIES.map((one) => [one.key, one.name]),
      quantityOfState().key,
      (value) => change({ by: value }),
    ),
    state.brush
      ? h("button", { type: "button", onclick: () => change({ brush: null, page: null }) }, "Clear the brush")
      : null,
  );
}

const stepsShown = () => [...new Set(columns["rollout.step"])].filter((step) => step >= 0).sort((a, b) => a - b);

function listOf() {
  const run = numeric("run", -1);
  const beside = state.beside !== undefined && header.runs[numeric("beside", -1)] ? numeric("beside", -1) : -1;
  if (beside >= 0) return pairsOf(run >= 0 ? run : beside === 0 ? 1 : 0, beside);
  const rows = rowsOf(run);
  return paged(rows, (row) => drawRollout(row), `${rows.length.toLocaleString("en")} responses`);
}

function paged(items, draw, found) {
  const pages = Math.max(1, Math.ceil(items.length / PER_PAGE));
  const page = Math.min(Math.max(0, numeric("page", 0)), pages - 1);
  const shown = items.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  const step = (to, text) =>
    h("button", { type: "button", disabled: to < 0 || to >= pages, onclick: () => change({ page: to }) }, text);
  return [
    h("p", { class: "note", id: "found" }, items.length ? found : `${found}: nothing passes the filters.`),
    shown.map(draw),
    pages > 1
      ? h("div", { class: "pager" }, step(page - 1, "Earlier"), `page ${page + 1} of ${pages}`, step(page + 1, "Later"))
      : null,
  ];
}

/** Prompts that both runs answered, at the same step where there is one. */
function pairsOf(left, right) {
  const units = (rows) => {
    const found = new Map();
    for (const row of rows) {
      const key = `${columns["rollout.step"][row]} ${columns["rollout.prompt"][row]}`;
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(row);
    }
    return found;
  };
  const [a, b] = [units(rowsOf(left)), units(rowsOf(right))];
  const common = [...a.keys()].filter((key) => b.has(key));
  const draw = (key) =>
    h(
      "div",
      {},
      h("p", { class: "prompt" }, h("b", {}, `step ${key.split(" ")[0]} · `), promptOf(a.get(key)[0])),
      h(
        "div",
        { class: "pair" },
        [a, b].map((side, at) =>
          h(
            "div",
            {},
            h("h3", {}, header.runs[at ? right : left].label),
            side
              .get(key)
              .slice(0, 4)
              .map((row) => drawRollout(row, true)),
          ),
        ),
      ),
    );
  const both = `${nameOfRun(left)} and ${nameOfRun(right)}`;
  return paged(common, draw, `${common.length.toLocaleString("en")} prompts that ${both} answered at the same step`);
}

const promptOf = (row) =>
  h("span", { class: "word prompt", dir: "auto" }, visibleText(header.prompts[columns["rollout.prompt"][row]]));

function drawRollout(row, short = false) {
  const sign = signOf(row);
  const reward = columns["rollout.reward"][row];
  const verdict = header.verdicts[row];
  return h(
    "article",
    {
      class: "rollout",
      "data-row": row,
      "aria-label": `Response of ${runOf(row).label}, step ${columns["rollout.step"][row]}`,
    },
    h(
      "div",
      { class: "about" },
      short ? null : h("b", {}, `${runOf(row).label} · step ${columns["rollout.step"][row]} · `),
      sign
        ? h(
            "span",
            { class: sign > 0 ? "good" : "bad" },
            sign > 0 ? "▲ rewarded" : "▼ unrewarded",
            Number.isNaN(reward) ? " (by its advantage)" : ` (${number(reward)})`,
          )
        : "reward unknown",
      verdict ? h("bdi", {}, ` · ${visibleText(verdict, 120)}`) : null,
      short ? null : [" · prompt ", promptOf(row)],
    ),
    h("div", { class: "tokens" }, wordsOf(row, FIRST_WORDS)),
  );
}

/** The words of a response; those with records are buttons, the rest is text. */
function wordsOf(row, most) {
  const [ids, quantity, passes, chosen] = [idsOf(row), quantityOfState(), tokenFilter(), tokenOfName(state.token)];
  const words = [];
  let token = firstToken[row];
  for (let position = 0; position < Math.min(ids.length, most); position += 1) {
    while (token < firstToken[row + 1] && columns["token.position"][token] < position) token += 1;
    const known = token < firstToken[row + 1] && columns["token.position"][token] === position;
    words.push(
      known
        ? wordButton(row, token, quantity, passes, chosen)
        : h(
            "span",
            { class: `t unknown${special(row, ids[position])}`, dir: "auto" },
            visible(wordOf(row, ids[position])),
          ),
    );
  }
  const rest = columns["rollout.length"][row] - words.length;
  if (ids.length > most) {
    words.push(
      h(
        "button",
        {
          type: "button",
          onclick: (event) => event.target.parentElement.replaceChildren(...wordsOf(row, most + 1000)),
        },
        `… ${rest.toLocaleString("en")} more`,
      ),
    );
  } else if (rest > 0)
    words.push(h("span", { class: "note" }, ` … ${rest.toLocaleString("en")} more tokens are not on this page`));
  return words;
}

const special = (row, id) => (vocabularyOf(row).special.has(id) ? " special" : "");

function wordButton(row, token, quantity, passes, chosen) {
  const value = quantity.value(token);
  const id = columns["token.token"][token];
  const classes =
    [
      "t",
      flowOf(token) >= 0 ? "followed" : "",
      quantity.diverging && value < 0 ? "minus" : "",
      token === chosen ? "chosen" : "",
      passes && !passes(token) ? "dim" : "",
    ]
      .filter(Boolean)
      .join(" ") + special(row, id);
  const word = visible(wordOf(row, id));
  return h(
    "button",
    {
      type: "button",
      class: classes,
      dir: "auto",
      style: background(quantity, value),
      "data-token": token,
      tabindex: token === chosen || (chosen < 0 && token === firstToken[row]) ? null : -1,
      "aria-label": `${word}, ${quantity.name} ${number(value)}`,
      title: `${quantity.name}: ${number(value)} ${quantity.unit}`,
    },
    word,
  );
}

/** Open a token without drawing the list again: a click must answer at once. */
function openToken(token) {
  document.querySelector(".t.chosen")?.classList.remove("chosen");
  const button = document.querySelector(`[data-token="${token}"]`);
  button?.classList.add("chosen");
  state = { ...state, token: nameOfToken(token) };
  history.pushState(null, "", `#${new URLSearchParams(state)}`);
  refreshDetail();
  markInPlane(token);
  say(sentenceOf(token));
}

/** Arrow keys move between the tokens of the list: left and right along a response, up and down between responses. */
function moveFocus(event) {
  const button = event.target.closest?.("button[data-token]");
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  if (!button) return;
  let next = null;
  if (event.key in steps) {
    const all = [...document.querySelectorAll("#list button[data-token]")];
    next = all[all.indexOf(button) + steps[event.key]];
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const articles = [...document.querySelectorAll("#list article")];
    const at = articles.indexOf(button.closest("article")) + (event.key === "ArrowDown" ? 1 : -1);
    next = articles[at]?.querySelector("button[data-token]");
  } else return;
  event.preventDefault();
  if (next) {
    button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
