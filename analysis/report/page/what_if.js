/** What if: the exact softmax step of one token with a sign, a weight and a step of your choice. */

function drawWhatIf(token) {
  const row = columns["token.row"][token];
  const y = columns["token.token"][token];
  const [x, top] = [statisticsOf(token), topOf(token)];
  const outcome = h("div", { id: "what-if" });
  const measured = Number.isFinite(x.weight) && x.weight !== 0;
  const options = [y, ...top.ids.filter((id) => id !== y)].map((id) => [id, visible(wordOf(row, id), 20)]);
  const draw = () => put(outcome, whatIfOutcome(row, x, y, top, options));
  const set = (changes) => {
    change(changes, true);
    draw();
  };
  const slider = (label, name, low, high, otherwise, shown) => {
    const value = numeric(name, otherwise);
    const written = h("output", {}, shown(value));
    return h(
      "label",
      {},
      h("span", {}, `${label} `, written),
      h("input", {
        type: "range",
        min: low,
        max: high,
        step: "any",
        value,
        "aria-label": label,
        id: `if-${name}`,
        oninput: (event) => {
          written.textContent = shown(Number(event.target.value));
          set({ [name]: Number(Number(event.target.value).toPrecision(4)) });
        },
      }),
    );
  };
  draw();
  return [
    h(
      "form",
      { class: "controls", onsubmit: (event) => event.preventDefault() },
      choice(
        "Sign",
        [
          ["1", "push y up (PSR)"],
          ["-1", "push y down (NSR)"],
        ],
        state.sign ?? (x.weight < 0 ? "-1" : "1"),
        (value) => set({ sign: value }),
      ),
      slider("Size |w|", "size", 0, 2, 1, (value) => number(value)),
      slider("Step η", "eta", -3, 2, 0, (value) => number(10 ** value)),
      measured
        ? h(
            "button",
            {
              type: "button",
              onclick: () => {
                change({ sign: Math.sign(x.weight), size: Number(Math.abs(x.weight).toPrecision(6)) }, true);
                refreshDetail();
              },
            },
            "Its own weight",
          )
        : null,
      choice("u", options, state.u ?? options[0][0], (value) => set({ u: value })),
      choice("v", options, state.v ?? (options[1] ?? options[0])[0], (value) => set({ v: value })),
    ),
    outcome,
  ];
}

/** The push ηw of the sliders, for a token. */
const pushOf = (x) => Number(state.sign ?? (x.weight < 0 ? -1 : 1)) * numeric("size", 1) * 10 ** numeric("eta", 0);

function whatIfOutcome(row, x, y, top, options) {
  const push = pushOf(x);
  const step = softmaxStep(x, y, top.ids, top.probs, push);
  const before = { logProb: x.logProb, entropy: x.entropy, collision: x.collision };
  const listed = [...step.tokens].sort((a, b) => b.before - a.before);
  const rows = listed.map((one) => [
    h(
      "span",
      {},
      h("span", { class: "word", dir: "auto" }, visible(wordOf(row, one.id), 20)),
      one.id === y ? " ← y" : "",
    ),
    barsOf(one.before, one.after),
    number(one.before),
    number(one.after),
    signed(one.after - one.before, 2),
  ]);
  if (step.tail > 1e-9)
    rows.push([
      "all others",
      barsOf(step.tail, step.tailAfter),
      number(step.tail),
      number(step.tailAfter),
      signed(step.tailAfter - step.tail, 2),
    ]);
  return [
    tableOf([["token", "", "before", "after", "Δπ"], ...rows], "What if"),
    tableOf(
      [
        ["", "before", "after", "exact change", "first order"],
        [
          "log π(y)",
          number(before.logProb),
          number(step.logProb),
          h(
            "span",
            { id: "exact-log-prob", "data-value": step.logProb - before.logProb },
            signed(step.logProb - before.logProb),
          ),
          signed(logProbChange(x, push)),
        ],
        [
          "entropy (nats)",
          number(before.entropy),
          number(step.entropy),
          h(
            "span",
            { id: "exact-entropy", "data-value": step.entropy - before.entropy },
            signed(step.entropy - before.entropy),
          ),
          signed(entropyChange(x, push)),
        ],
        ["c = Σπ²", number(before.collision), number(step.collision), signed(step.collision - before.collision), ""],
      ],
      "What if, in numbers",
    ),
    pairOf(row, step, y, push, options),
    step.tail > 1e-9
      ? h(
          "p",
          { class: "note" },
          `The tail beyond the stored tokens (mass ${number(step.tail)}) moves as one; its true mass before `,
          `normalisation differs by less than ${number(step.tailSpread, 2)}.`,
        )
      : null,
  ];
}

/** d log π_u/π_v, which for two tokens other than y is −ηw(π_u − π_v) exactly, whatever the step. */
function pairOf(row, step, y, push, options) {
  const find = (name, otherwise) =>
    step.tokens.find((one) => String(one.id) === String(state[name])) ??
    step.tokens.find((one) => one.id === otherwise);
  const [u, v] = [find("u", options[0][0]), find("v", (options[1] ?? options[0])[0])];
  const change_ = u.shift - v.shift;
  const name = (one) => visible(wordOf(row, one.id), 16);
  const why =
    u.id === v.id
      ? "the same token"
      : u.id !== y && v.id !== y
        ? `−ηw(π_u − π_v) = ${number(-push)}·(${number(u.before)} ${MINUS} ${number(v.before)})`
        : "ηw for y, and −ηwπ for each of them";
  const effect =
    Math.abs(change_) < 1e-12
      ? "their odds stay"
      : change_ > 0 === u.before > v.before
        ? "the one that led leads by more"
        : "the one that led leads by less";
  return h(
    "p",
    {},
    "d log π_u/π_v for u = ",
    h("b", { class: "word" }, name(u)),
    ", v = ",
    h("b", { class: "word" }, name(v)),
    ": ",
    h("b", { id: "exact-pair", "data-value": change_ }, signed(change_)),
    ` (${why}); ${effect}.`,
  );
}
