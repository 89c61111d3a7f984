/** Plain words about a token: what its own gradient does, what the whole update did, and where the mass went. */

/** @returns {{id: number, before: number, after: number, shift: number}[]} the recorded tokens of a followed context */
function outcomesOf(flow) {
  const [start, end] = [columns["flow.top_ids.start"][flow], columns["flow.top_ids.start"][flow + 1]];
  const read = (name, at) => columns[`flow.${name}`][at];
  return Array.from({ length: end - start }, (_, i) => start + i).map((at) => ({
    id: columns["flow.top_ids"][at],
    before: read("top_prob_before", at),
    after: read("top_prob_after", at),
    shift: read("top_dlogit", at),
  }));
}

function sentenceOf(token) {
  const flow = flowOf(token);
  return [ownGradient(token), flow < 0 ? "The outcome was not recorded." : wholeUpdate(token, flow)].join(" ");
}

const quoted = (token, id) => `"${visible(wordOf(columns["token.row"][token], id), 24)}"`;

/** What the token's own gradient does, alone. */
function ownGradient(token) {
  const row = columns["token.row"][token];
  const x = statisticsOf(token);
  const y = quoted(token, columns["token.token"][token]);
  if (columns["rollout.panel"][row]) return `${y} follows a held-out prefix: it has no gradient of its own.`;
  if (Number.isNaN(x.weight))
    return `No weight is known for ${y}, whose probability was ${number(Math.exp(x.logProb))}.`;
  if (x.weight === 0) return `${runOf(row).label} gave ${y} no weight: its own gradient is zero.`;
  const way = entropyChange(x, x.weight) > 0 ? "raises" : "lowers";
  return `${runOf(row).label} pushed ${y} ${x.weight > 0 ? "up" : "down"}; by itself that ${way} the entropy here.`;
}

/**
 * What the whole update did, of which the token's own gradient is a part: the fraction of all mass that moved (the total
 * variation) that went to the token that gained most, or came from the one that lost most.
 */
function wholeUpdate(token, flow) {
  const y = columns["token.token"][token];
  const weight = columns["token.weight"][token];
  const [before, after] = [Math.exp(columns["token.log_prob"][token]), Math.exp(columns["flow.log_prob_after"][flow])];
  const [change_, moved] = [after - before, columns["flow.tv"][flow]];
  if (change_ === 0) return "The whole update left its probability as it was.";
  const against = weight
    ? weight > 0 === change_ > 0
      ? ", as its own gradient does,"
      : ", against its own gradient,"
    : "";
  const step = `The whole update${against} moved it from ${number(before)} to ${number(after)}`;
  const outcomes = outcomesOf(flow);
  const others = outcomes.filter((one) => one.id !== y && (one.after - one.before) * change_ < 0);
  if (!others.length || !(moved > 0)) return `${step}. ${source(flow)}`.trim();
  const size = (one) => Math.abs(one.after - one.before);
  const most = others.reduce((a, b) => (size(b) > size(a) ? b : a));
  const leader = outcomes.every((one) => one.before <= most.before) ? ", which already led" : "";
  const fraction = `${percent(Math.min(1, size(most) / moved))} of the mass that moved`;
  const where = change_ < 0 ? `went to ${quoted(token, most.id)}${leader}` : `came from ${quoted(token, most.id)}`;
  return `${step}; ${fraction} ${where}. ${source(flow)}`.trim();
}

/** The largest part of the predicted change, where it was recorded by part. */
function source(flow) {
  const parts = partsOf(flow);
  if (!parts) return "";
  const total = parts.reduce((sum, [, value]) => sum + value, 0);
  const [name, value] = parts.reduce((a, b) => (Math.abs(b[1]) > Math.abs(a[1]) ? b : a));
  return value === 0 ? "" : `Largest part of the predicted ${signed(total, 2)} nats: ${name} (${signed(value, 2)}).`;
}

/** @returns {[string, number][] | null} Δ log π(y) by part of the step: each gradient of this batch, and the momentum */
function partsOf(flow) {
  const n = header.shares.length;
  const values = [...columns["flow.jvp_dlog_prob_shares"].subarray(flow * n, (flow + 1) * n)];
  if (values.some(Number.isNaN)) return null;
  const part = (source_, time) => values[header.shares.indexOf(`${source_}_${time}`)];
  const past = Object.keys(SOURCES).reduce((total, source_) => total + part(source_, "past"), 0);
  const now = Object.entries(SOURCES).map(([source_, name]) => [`${name}, this batch`, part(source_, "now")]);
  return [...now, ["momentum of earlier updates", past]];
}

const SOURCES = {
  pos: "rewarded responses",
  neg: "unrewarded responses",
  reg: "regularisers",
  decay: "weight decay",
};
