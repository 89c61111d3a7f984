/**
 * The laws of one token, as in `analysis.laws`: first order per logit step, and the exact softmax step.
 *
 * @typedef {{logProb: number, oneMinus: number, entropy: number, collision: number, s: number, norm: number,
 *   weight: number}} Statistics  s = Σ π² log π, norm = ‖e_y − π‖₂
 */

/** @returns {Statistics} */
function statisticsOf(token) {
  const read = (name) => columns[`token.${name}`][token];
  return {
    logProb: read("log_prob"),
    oneMinus: read("one_minus_prob"),
    entropy: read("entropy"),
    collision: read("collision"),
    s: read("collision_log_prob"),
    norm: read("direction_norm"),
    weight: read("weight"),
  };
}

/** c − π_y: other tokens with more mass than this move against y. */
const squeezeBoundary = (x) => x.collision - Math.exp(x.logProb);

/** First-order Δ log π_y = ηw‖e_y − π‖². */
const logProbChange = (x, push) => push * x.norm ** 2;

/** First-order ΔH = −ηw·[π_y(log π_y + H) − S − cH]. */
const entropyChange = (x, push) =>
  -push * (Math.exp(x.logProb) * (x.logProb + x.entropy) - x.s - x.collision * x.entropy);

/**
 * The exact step π'_v ∝ π_v·exp(Δz_v), Δz = push·(e_y − π), from the stored top tokens and the tail.
 *
 * Of the tail its mass m, Σ π² and entropy are known, not its tokens: it moves as one, by the mean of π weighted by π,
 * Σ_tail π²/m. That is exact where the tail is uniform; the factor of any tail token lies between exp(−push·largest)
 * and 1, which `tailSpread` states.
 *
 * @param {Statistics} x
 * @param {number} y token id
 * @param {number[]} ids top tokens
 * @param {number[]} probs their probabilities
 * @param {number} push ηw
 */
function softmaxStep(x, y, ids, probs, push) {
  const prob = Math.exp(x.logProb);
  const known = [{ id: y, before: prob, shift: push * x.oneMinus }];
  ids.forEach((id, at) => {
    if (id !== y) known.push({ id, before: probs[at], shift: -push * probs[at] });
  });
  const others = known.slice(1);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const tail = Math.max(0, x.oneMinus - sum(others.map((one) => one.before)));
  const tailSquares = Math.max(0, x.collision - prob ** 2 - sum(others.map((one) => one.before ** 2)));
  const mean = tail > 0 ? Math.min(tailSquares / tail, 1) : 0;
  const tailShift = -push * mean;
  // the largest shift is taken out first, so that no step overflows
  const top = Math.max(tailShift, ...known.map((one) => one.shift));
  const raised = known.map((one) => one.before * Math.exp(one.shift - top));
  const raisedTail = tail * Math.exp(tailShift - top);
  const total = sum(raised) + raisedTail;
  const plogp = (p) => (p > 0 ? p * Math.log(p) : 0);
  const tokens = known.map((one, at) => ({ ...one, after: raised[at] / total }));
  const tailAfter = raisedTail / total;
  // T = −Σ_tail π log π; scaled as one by a factor f it becomes f·T − f·m·log f
  const tailEntropy = Math.max(0, x.entropy + sum(known.map((one) => plogp(one.before))));
  const factor = tail > 0 ? tailAfter / tail : 0;
  const scaled = factor > 0 ? factor * tailEntropy - factor * tail * Math.log(factor) : 0;
  const smallest = others.length ? Math.min(...others.map((one) => one.before)) : 1;
  return {
    tokens,
    tail,
    tailAfter,
    prob: tokens[0].after,
    logProb: Math.log(raised[0]) - Math.log(total),
    entropy: scaled - sum(tokens.map((one) => plogp(one.after))),
    collision: sum(tokens.map((one) => one.after ** 2)) + factor ** 2 * tailSquares,
    tailSpread: tail * Math.abs(Math.expm1(-push * Math.min(smallest, tail))),
  };
}

/** ids and probabilities of the stored top of a token. */
function topOf(token) {
  const [start, end] = [columns["token.top_ids.start"][token], columns["token.top_ids.start"][token + 1]];
  return {
    ids: [...columns["token.top_ids"].subarray(start, end)],
    probs: [...columns["token.top_probs"].subarray(start, end)],
  };
}
