/** One token: sentence, formula with its numbers, prediction and outcome, whose gradients, and its distribution. */

/** The part of a view that shows one token; where the screen is narrow it lies over the lower half until it is closed. */
function detailOf() {
  const panel = viewOf(state) === "panel";
  const open = !panel && state.token;
  return h(
    "section",
    { class: open ? "detail open" : "detail", id: "detail", "aria-label": "Token", tabindex: "0" },
    open ? h("button", { type: "button", id: "close", onclick: closeToken }, "Close") : null,
    panel ? tokenView(panelState().token) : drawToken(),
  );
}

function drawToken() {
  const token = tokenOfName(state.token);
  if (token >= 0) return tokenView(token);
  const missing = "This page does not hold the token of the address: it was written anew, or shows other responses.";
  const how =
    "Choose a coloured token. Those with a line above were followed through their update: what was predicted and what " +
    "came out stand beside one another.";
  return [
    h("h2", {}, "A token"),
    state.token ? h("p", { class: "warn" }, missing) : null,
    h("p", { class: "note" }, how),
  ];
}

function tokenView(token) {
  const row = columns["token.row"][token];
  const [x, y, flow] = [statisticsOf(token), columns["token.token"][token], flowOf(token)];
  return [
    h("h2", {}, "Token ", h("span", { class: `word${special(row, y)}`, dir: "auto" }, visible(wordOf(row, y), 200))),
    h(
      "p",
      { class: "note" },
      placeOf(token),
      columns["rollout.panel"][row]
        ? null
        : [
            " · ",
            h("a", { href: linkTo({ view: "plane", token: nameOfToken(token) }) }, "in the phase plane"),
            otherUpdates(token),
          ],
    ),
    h("p", { class: "sentence", id: "sentence" }, sentenceOf(token)),
    h("h3", {}, "Its distribution"),
    distribution(token, row, x, y, flow),
    h("h3", {}, "The law with its numbers"),
    formula(token, x),
    flow < 0
      ? h("p", { class: "note" }, "The outcome was not recorded here: only followed contexts have one.")
      : [
          h("h3", {}, "Prediction and outcome"),
          outcomes(token, x, flow),
          h("h3", {}, "Whose gradients did it"),
          shares(flow),
        ],
    h("h3", {}, "What if"),
    drawWhatIf(token),
  ];
}

/** Where a token was: its run, step, update, position. */
function placeOf(token) {
  const step = columns["rollout.step"][columns["token.row"][token]];
  const read = (name) => columns[`token.${name}`][token];
  const parts = [`update ${read("update")}`, `position ${read("position")}`, `id ${read("token")}`];
  return [runOf(columns["token.row"][token]).label, ...(step < 0 ? [] : [`step ${step}`]), ...parts].join(" · ");
}

/** Links to the same position at other updates. */
function otherUpdates(token) {
  const row = columns["token.row"][token];
  const others = [];
  for (let i = firstToken[row]; i < firstToken[row + 1]; i += 1) {
    if (i !== token && columns["token.position"][i] === columns["token.position"][token]) others.push(i);
  }
  return others.map((i) => [
    " · ",
    h("a", { href: linkTo({ ...state, token: nameOfToken(i) }) }, `at update ${columns["token.update"][i]}`),
  ]);
}

function distribution(token, row, x, y, flow) {
  const top = topOf(token);
  const listed =
    flow >= 0 ? outcomesOf(flow) : top.ids.map((id, at) => ({ id, before: top.probs[at], after: NaN, shift: NaN }));
  if (!listed.some((one) => one.id === y))
    listed.push({
      id: y,
      before: Math.exp(x.logProb),
      after: flow >= 0 ? Math.exp(columns["flow.log_prob_after"][flow]) : NaN,
      shift: NaN,
    });
  listed.sort((a, b) => b.before - a.before);
  const gradient = (one) => (x.weight * ((one.id === y) - one.before)) / runOf(row).temperature;
  const largest = Math.max(...listed.map((one) => Math.abs(gradient(one)) || 0));
  const rows = listed.map((one) => [
    h(
      "span",
      {},
      h("span", { class: `word${special(row, one.id)}`, dir: "auto" }, visible(wordOf(row, one.id), 20)),
      one.id === y ? h("b", {}, "\u00a0←\u00a0y") : "",
    ),
    barsOf(one.before, one.after),
    number(one.before),
    ...(flow >= 0 ? [number(one.after), signed(one.shift, 2)] : []),
    arrowOf(gradient(one), largest),
  ]);
  const rest = 1 - listed.reduce((sum, one) => sum + one.before, 0);
  if (rest > 1e-6)
    rows.push([
      "all others",
      barsOf(rest, flow >= 0 ? 1 - listed.reduce((sum, one) => sum + one.after, 0) : NaN),
      number(rest),
      ...(flow >= 0 ? [number(1 - listed.reduce((sum, one) => sum + one.after, 0)), ""] : []),
      "",
    ]);
  return [
    tableOf(
      [["token", "", "before", ...(flow >= 0 ? ["after", "Δz"] : []), "−∂L/∂z"], ...rows],
      "Distribution at this token",
    ),
    h(
      "p",
      { class: "note" },
      h("span", { class: "key", style: "background:var(--before)" }),
      "before ",
      flow >= 0 ? [h("span", { class: "key", style: "background:var(--after)" }), "after "] : null,
      "· Δz: of the whole update · −∂L/∂z: the logit gradient w(e_y − π)/T of this token alone",
      Number.isNaN(x.weight) ? ", unknown without a weight" : "",
    ),
  ];
}

function barsOf(before, after) {
  const width = (p) => 100 * Math.min(1, Math.max(0, p || 0));
  return s(
    "svg",
    { class: "bar", viewBox: "0 0 100 18", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", {
      x: 0,
      y: Number.isNaN(after) ? 4 : 1,
      height: Number.isNaN(after) ? 10 : 7,
      width: width(before),
      style: "fill:var(--before)",
    }),
    Number.isNaN(after) ? null : s("rect", { x: 0, y: 9, height: 7, width: width(after), style: "fill:var(--after)" }),
  );
}

/** An arrow up or down the logit; its length is that of the largest where the gradient is. */
function arrowOf(value, largest) {
  if (Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const length = largest ? (34 * Math.abs(value)) / largest : 0;
  const [tip, color] = [50 + Math.sign(value) * length, value < 0 ? "var(--unrewarded)" : "var(--rewarded)"];
  const back = tip - Math.sign(value) * Math.min(8, length);
  return h(
    "span",
    {},
    h("span", { class: "size" }, signed(value, 2)),
    s(
      "svg",
      { class: "bar", style: "width:4rem", viewBox: "0 0 100 18", "aria-hidden": "true" },
      s("line", { x1: 50, x2: 50, y1: 2, y2: 16, class: "grid" }),
      s("line", { x1: 50, x2: tip, y1: 9, y2: 9, style: `stroke:${color};stroke-width:4` }),
      length > 2 ? s("polygon", { points: `${tip},9 ${back},3 ${back},15`, style: `fill:${color}` }) : null,
    ),
  );
}

function formula(token, x) {
  const prob = Math.exp(x.logProb);
  const known = !Number.isNaN(x.weight);
  const [w, unit, weight] = known ? [number(x.weight), "η", x.weight] : ["w", "ηw", 1]; // without a weight: for each w
  const rank = columns["token.rank"][token];
  const clip = columns["token.clip"][token];
  const minusS = `${x.s <= 0 ? "+" : MINUS} ${number(Math.abs(x.s))}`;
  const inner = `${number(prob)}·(${number(x.logProb)} + ${number(x.entropy)}) ${minusS}`;
  const lines = [
    `Δ log π(y) = ηw‖e_y − π‖² = η·${w}·${number(x.norm)}² = ${signed(logProbChange(x, weight))}·${unit}`,
    "ΔH = −ηw[π(log π + H) − S − cH]",
    `   = −η·${w}·[${inner} ${MINUS} ${number(x.collision)}·${number(x.entropy)}]`,
    `   = ${signed(entropyChange(x, weight))}·${unit}`,
    `squeeze boundary c − π(y) = ${number(x.collision)} ${MINUS} ${number(prob)} = ${signed(squeezeBoundary(x))}`,
  ];
  const facts = [
    ["π(y)", number(prob)],
    ["1 − π(y)", number(x.oneMinus)],
    ["entropy H", `${number(x.entropy)} nats`],
    ["c = Σπ²", number(x.collision)],
    ["weight w", number(x.weight)],
    ["advantage", number(columns["token.advantage"][token])],
    ["ratio", number(columns["token.ratio"][token], 4)],
    ["rank of y", rank < 0 ? "–" : rank + 1],
    ["clip", clip === UNKNOWN ? "–" : { "-1": "clipped below", 0: "not clipped", 1: "clipped above" }[clip]],
    ["sampler mismatch", number(columns["token.mismatch"][token])],
  ];
  return [
    h("div", { class: "formula", tabindex: "0", role: "group", "aria-label": "Formula" }, lines.join("\n")),
    h(
      "dl",
      {},
      facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
    h(
      "p",
      { class: "note" },
      "η is the logit step. Adam and shared parameters leave it no scale: compare signs and orders.",
    ),
  ];
}

/** Law (its sign), prediction from the actual step, outcome, residual. */
function outcomes(token, x, flow) {
  const rows = [
    ["log π(y)", logProbChange(x, x.weight), "jvp_dlog_prob", "log_prob_after", x.logProb],
    ["entropy H", entropyChange(x, x.weight), "jvp_dentropy", "entropy_after", x.entropy],
  ];
  const table = rows.map(([name, law, jvp, after, before]) => {
    const [predicted, outcome] = [columns[`flow.${jvp}`][flow], columns[`flow.${after}`][flow] - before];
    return [
      `Δ ${name}`,
      law > 0 ? "up" : law < 0 ? "down" : Number.isNaN(law) ? "–" : "none",
      signed(predicted),
      signed(outcome),
      signed(outcome - predicted),
    ];
  });
  return [
    tableOf([["", "law says", "predicted (JVP)", "outcome", "residual"], ...table], "Prediction and outcome"),
    h(
      "p",
      { class: "note" },
      `Whole distribution: total variation ${number(columns["flow.tv"][flow])}, `,
      `KL ${number(columns["flow.kl"][flow])} nats. Where no JVP was taken, prediction and residual are –.`,
    ),
  ];
}

function shares(flow) {
  const parts = partsOf(flow);
  if (!parts) return h("p", { class: "note" }, "Not recorded for this update (record.shares_every).");
  const largest = Math.max(...parts.map(([, value]) => Math.abs(value)));
  const rows = parts.map(([name, value]) => [name, signed(value), arrowBar(value, largest)]);
  return tableOf([["part of the predicted Δ log π(y)", "nats", ""], ...rows], "Whose gradients did it");
}

function arrowBar(value, largest) {
  const length = largest ? (48 * Math.abs(value)) / largest : 0;
  return s(
    "svg",
    { class: "bar", viewBox: "0 0 100 18", "aria-hidden": "true" },
    s("line", { x1: 50, x2: 50, y1: 0, y2: 18, class: "grid" }),
    s("rect", {
      x: value < 0 ? 50 - length : 50,
      width: length,
      y: 4,
      height: 10,
      style: `fill:var(--${value < 0 ? "unrewarded" : "rewarded"})`,
    }),
  );
}
