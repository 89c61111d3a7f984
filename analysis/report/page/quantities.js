/**
 * What tokens can be coloured by.
 *
 * @typedef {{key: string, name: string, about: string, unit: string, diverging: boolean,
 *   value: (token: number) => number}} Quantity  NaN where it was not recorded
 */

const flowOf = (token) => columns["token.flow"][token];
const ofFlow = (name) => (token) => (flowOf(token) < 0 ? NaN : columns[`flow.${name}`][flowOf(token)]);

/** Realised change of a statistic, recorded after − before; only of followed tokens. */
const realised = (after, before) => (token) => ofFlow(after)(token) - columns[`token.${before}`][token];

/** @type {Quantity[]} */
const QUANTITIES = [
  {
    key: "weight",
    name: "weight w",
    about: "−∂L/∂log π(y): blue pushes the token up, orange pushes it down",
    unit: "",
    diverging: true,
    value: (i) => columns["token.weight"][i],
  },
  {
    key: "prob",
    name: "probability π(y)",
    about: "of the token that was sampled",
    unit: "",
    diverging: false,
    value: (i) => Math.exp(columns["token.log_prob"][i]),
  },
  {
    key: "entropy",
    name: "entropy H",
    about: "of the distribution at the token",
    unit: "nats",
    diverging: false,
    value: (i) => columns["token.entropy"][i],
  },
  {
    key: "law",
    name: "law: own effect on log π(y)",
    about: "w‖e_y − π‖², per unit logit step: sign and order count, not the scale",
    unit: "nats",
    diverging: true,
    value: (i) => {
      const x = statisticsOf(i);
      return logProbChange(x, x.weight);
    },
  },
  {
    key: "law_entropy",
    name: "law: own effect on entropy",
    about: "first order, per unit logit step",
    unit: "nats",
    diverging: true,
    value: (i) => {
      const x = statisticsOf(i);
      return entropyChange(x, x.weight);
    },
  },
  {
    key: "jvp",
    name: "predicted Δ log π(y)",
    about: "first order in the actual parameter step (JVP); followed tokens only",
    unit: "nats",
    diverging: true,
    value: ofFlow("jvp_dlog_prob"),
  },
  {
    key: "realised",
    name: "realised Δ log π(y)",
    about: "after the update; followed tokens only",
    unit: "nats",
    diverging: true,
    value: realised("log_prob_after", "log_prob"),
  },
  {
    key: "realised_entropy",
    name: "realised ΔH",
    about: "after the update; followed tokens only",
    unit: "nats",
    diverging: true,
    value: realised("entropy_after", "entropy"),
  },
  {
    key: "squeeze",
    name: "squeeze side c − π(y)",
    about: "blue: π(y) < c, so alternatives with less mass than c − π(y) move with y",
    unit: "",
    diverging: true,
    value: (i) => squeezeBoundary(statisticsOf(i)),
  },
  {
    key: "clip",
    name: "clip",
    about: "orange: clipped below, blue: clipped above",
    unit: "",
    diverging: true,
    value: (i) => (columns["token.clip"][i] === UNKNOWN ? NaN : columns["token.clip"][i]),
  },
  {
    key: "mismatch",
    name: "sampler mismatch",
    about: "log-probability at the sampler minus that of the trainer",
    unit: "nats",
    diverging: true,
    value: (i) => columns["token.mismatch"][i],
  },
  {
    key: "ratio",
    name: "log ratio",
    about: "log π(y)/π_old(y)",
    unit: "nats",
    diverging: true,
    value: (i) => Math.log(columns["token.ratio"][i]),
  },
];

/** @type {Map<string, number>} the value that gets the full colour: the 98th percentile of the size */
const fullColours = new Map();

function fullColour(quantity) {
  if (!fullColours.has(quantity.key)) {
    const n = columns["token.row"].length;
    const stride = Math.max(1, Math.floor(n / 5000)); // a sample is enough for a percentile
    const sizes = [];
    for (let token = 0; token < n; token += 1) {
      if (stride > 1 && token % stride && flowOf(token) < 0) continue;
      const size = Math.abs(quantity.value(token));
      if (Number.isFinite(size)) sizes.push(size);
    }
    sizes.sort((a, b) => a - b);
    fullColours.set(quantity.key, sizes.length ? sizes[Math.floor(0.98 * (sizes.length - 1))] || sizes.at(-1) || 1 : 0);
  }
  return fullColours.get(quantity.key);
}

/** Blue for more, orange for less (Okabe and Ito): apart for all kinds of colour vision, and by a dashed line besides. */
const BLUE = "0,114,178";
const ORANGE = "213,94,0";

function background(quantity, value) {
  if (!Number.isFinite(value)) return "";
  const full = fullColour(quantity) || 1;
  const strength = Math.min(1, Math.abs(value) / full);
  return `background:rgba(${quantity.diverging && value < 0 ? ORANGE : BLUE},${(0.55 * strength).toFixed(3)})`;
}

function legend(quantity) {
  const full = fullColour(quantity);
  const ramp = quantity.diverging
    ? `linear-gradient(to right, rgba(${ORANGE},.55), transparent, rgba(${BLUE},.55))`
    : `linear-gradient(to right, transparent, rgba(${BLUE},.55))`;
  return h(
    "div",
    { class: "legend", id: "legend" },
    full
      ? h(
          "span",
          {},
          `${quantity.diverging ? number(-full, 2) : "0"} `,
          h("span", { class: "ramp", style: `background:${ramp}` }),
          ` ${number(full, 2)} ${quantity.unit}`,
        )
      : h("span", { class: "warn" }, "not recorded in these runs"),
    h("span", {}, quantity.about),
    h("span", {}, h("span", { class: "t followed" }, "word"), " followed through its update"),
    quantity.diverging ? h("span", {}, h("span", { class: "t minus" }, "word"), " negative") : null,
    h("span", {}, h("span", { class: "t unknown" }, "word"), " not recorded"),
    h("span", {}, "␣ space, ⏎ new line, ⇥ tab"),
  );
}
