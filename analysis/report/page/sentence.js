/** One sentence in plain words about a token: what its update did, or what its own gradient would do. */

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
  const row = columns["token.row"][token];
  const y = columns["token.token"][token];
  const name = (id) => `"${visible(wordOf(row, id), 24)}"`;
  const flow = flowOf(token);
  if (flow < 0) {
    const x = statisticsOf(token);
    if (Number.isNaN(x.weight))
      return `No weight is known for ${name(y)}; its probability was ${number(Math.exp(x.logProb))}.`;
    if (x.weight === 0) return `${runOf(row).label} gave ${name(y)} no weight: its own gradient is zero.`;
    const way = entropyChange(x, x.weight) > 0 ? "raises" : "lowers";
    return `The gradient of ${runOf(row).label} pushes ${name(y)} ${x.weight > 0 ? "up" : "down"} and by itself ${way} the entropy here; the outcome was not recorded.`;
  }
  const outcomes = outcomesOf(flow);
  const own = outcomes.find((one) => one.id === y);
  const before = Math.exp(columns["token.log_prob"][token]);
  const after = Math.exp(columns["flow.log_prob_after"][flow]);
  const way = after < before ? "down" : "up";
  const step = `The update of ${runOf(row).label} moved ${name(y)} ${way} from ${number(before)} to ${number(after)}`;
  const others = outcomes.filter((one) => one !== own && (one.after - one.before) * (after - before) < 0);
  if (!others.length || after === before) return `${step}.`;
  const most = others.reduce((a, b) => (Math.abs(b.after - b.before) > Math.abs(a.after - a.before) ? b : a));
  const moved = others.reduce((sum, one) => sum + Math.abs(one.after - one.before), 0);
  const fraction = Math.min(1, Math.abs(most.after - most.before) / Math.max(moved, Math.abs(after - before)));
  const leader = outcomes.every((one) => one.before <= most.before) ? ", which already led" : "";
  return after < before
    ? `${step}: ${percent(fraction)} of the mass that moved the other way went to ${name(most.id)}${leader}.`
    : `${step}: ${percent(fraction)} of the mass that moved the other way came from ${name(most.id)}${leader.replace("already ", "")}.`;
}
