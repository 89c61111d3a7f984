/** Line charts with intervals as plain SVG, each with its numbers as a table. */

const CHART = { width: 420, height: 230, left: 46, right: 96, top: 12, bottom: 34 };
const LABEL = 13; // height of one
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 3"];

/** Round places for about `count` ticks between two numbers. */
function ticks(low, high, count = 5) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= count);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * span; at += 1) found.push(at * step);
  return found;
}

/** A linear or logarithmic map of [low, high] to pixels. */
function scale(low, high, from, to, log = false) {
  const map = log ? Math.log2 : (value) => value;
  const [a, b] = [map(low), map(high)];
  return (value) => from + ((map(value) - a) / (b - a || 1)) * (to - from);
}

/**
 * @param {Chart} chart
 * @param {"step"|"update"|"reached"} axis what is to the right; of a chart over k always k
 */
function lineChart(chart, axis) {
  const overK = chart.axis === "k";
  const place = overK ? 0 : { step: 0, update: 1, reached: 2 }[axis];
  const at = overK ? 1 : 3; // of the value in a point
  const drawn = chart.series
    .map((one) => ({ ...one, points: one.points.filter((point) => point[place] !== null) }))
    .filter((one) => one.points.length);
  const name = overK ? "k" : { step: "step", update: "update", reached: "Pass@1 reached (validation)" }[axis];
  if (!drawn.length) {
    return h("figure", {}, h("figcaption", {}, chart.title), h("p", { class: "note" }, `Not known against ${name}.`));
  }
  const all = drawn.flatMap((one) => one.points);
  const xs = all.map((point) => point[place]);
  const ys = all.flatMap((point) => [point[at], point[at + 1] ?? point[at], point[at + 2] ?? point[at]]);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  const x = scale(Math.min(...xs), Math.max(...xs), CHART.left, CHART.width - CHART.right, overK);
  const y = scale(low - margin, high + margin, CHART.height - CHART.bottom, CHART.top);
  const marks = overK
    ? [1, 4, 16, 64, 256, 1024].filter((k) => k <= Math.max(...xs))
    : ticks(Math.min(...xs), Math.max(...xs));
  const svg = s("svg", {
    viewBox: `0 0 ${CHART.width} ${CHART.height}`,
    role: "img",
    "aria-label": `${chart.title} against ${name}; the numbers are in the table below`,
  });
  for (const mark of ticks(low - margin, high + margin, 4)) {
    svg.append(
      s("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(mark), y2: y(mark) }),
      s("text", { x: CHART.left - 5, y: y(mark) + 4, "text-anchor": "end" }, number(mark)),
    );
  }
  for (const mark of marks) {
    svg.append(
      s("text", { x: x(mark), y: CHART.height - CHART.bottom + 16, "text-anchor": "middle" }, number(mark, 4)),
    );
  }
  svg.append(
    s("line", {
      class: "axis",
      x1: CHART.left,
      x2: CHART.width - CHART.right,
      y1: CHART.height - CHART.bottom,
      y2: CHART.height - CHART.bottom,
    }),
    s("text", { x: (CHART.left + CHART.width - CHART.right) / 2, y: CHART.height - 4, "text-anchor": "middle" }, name),
  );
  const ends = [];
  drawn.forEach((one, index) => {
    const points = [...one.points].sort((a, b) => a[place] - b[place]);
    const banded = points.filter((point) => point[at + 1] !== null && point[at + 2] !== null);
    const corners = [
      ...banded.map((point) => [point[place], point[at + 2]]),
      ...[...banded].reverse().map((point) => [point[place], point[at + 1]]),
    ];
    if (banded.length > 1) {
      svg.append(
        s("polygon", { points: corners.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), fill: one.color, opacity: 0.18 }),
      );
    }
    svg.append(
      s("polyline", {
        points: points.map((point) => `${x(point[place])},${y(point[at])}`).join(" "),
        fill: "none",
        stroke: one.color,
        "stroke-width": 2,
        "stroke-dasharray": DASHES[index % DASHES.length],
      }),
    );
    if (points.length === 1)
      svg.append(s("circle", { cx: x(points[0][place]), cy: y(points[0][at]), r: 3, fill: one.color }));
    ends.push({ one, index, y: y(points.at(-1)[at]) });
  });
  svg.append(...endLabels(ends));
  return h(
    "figure",
    {},
    h("figcaption", {}, `${chart.title} (${chart.unit})`),
    svg,
    numbersOf(chart, drawn, name, place, at),
  );
}

/** Names at the ends of the lines, moved apart where they would overlap, within the frame. */
function endLabels(ends) {
  ends.sort((a, b) => a.y - b.y);
  ends.forEach((end, at) => {
    if (at) end.y = Math.max(end.y, ends[at - 1].y + LABEL);
  });
  let lowest = CHART.height - CHART.bottom - 4;
  for (const end of [...ends].reverse()) {
    end.y = Math.min(end.y, lowest);
    lowest = end.y - LABEL;
  }
  const left = CHART.width - CHART.right + 4;
  return ends.flatMap(({ one, index, y }) => [
    s("line", {
      x1: left,
      x2: left + 12,
      y1: y,
      y2: y,
      stroke: one.color,
      "stroke-width": 3,
      "stroke-dasharray": index ? "4 2" : "",
    }),
    s("text", { x: left + 15, y: y + 4 }, visibleText(one.label, 14)),
  ]);
}

function numbersOf(chart, drawn, name, place, at) {
  const rows = drawn.flatMap((one) =>
    one.points.map((point) => [
      one.label,
      number(point[place], 4),
      number(point[at], 4),
      point[at + 1] === null ? "–" : `${number(point[at + 1], 4)} to ${number(point[at + 2], 4)}`,
    ]),
  );
  return h(
    "details",
    {},
    h("summary", {}, "Numbers"),
    tableOf([["", name, "value", "95% interval"], ...rows], chart.title),
  );
}
