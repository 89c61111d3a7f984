/** The phase plane: π(y) against Σπ², with the boundaries of the laws and the tokens of the runs, brushed both ways. */

const PLANE = { width: 640, height: 520, left: 56, right: 16, top: 14, bottom: 46, cells: 50, most: 1500 };
const planeX = scale(0, 1, PLANE.left, PLANE.width - PLANE.right);
const planeY = scale(0, 1, PLANE.height - PLANE.bottom, PLANE.top);

/** Parse `x0,x1,y0,y1`; null without a brush. */
function brushOfState() {
  const parts = (state.brush ?? "").split(",").map(Number);
  const known = parts.length === 4 && parts.every(Number.isFinite) && parts[0] <= parts[1] && parts[2] <= parts[3];
  return known ? parts : null;
}

function inBrush(token, [x0, x1, y0, y1]) {
  const [p, c] = [Math.exp(columns["token.log_prob"][token]), columns["token.collision"][token]];
  return p >= x0 && p <= x1 && c >= y0 && c <= y1;
}

/**
 * Whether NSR raises the entropy where the others are one token of probability a and m equally likely ones: the sign of
 * π(log π + H) − S − cH. Of all distributions with the same π, these lower it at the smallest c.
 */
function signUnderNsr(p, a, m) {
  const b = Math.max(0, 1 - p - a) / m;
  const log = (value) => (value > 0 ? Math.log(value) : 0);
  const entropy = -p * log(p) - a * log(a) - m * b * log(b);
  const c = p * p + a * a + m * b * b;
  return { c, value: p * (log(p) + entropy) - (p * p * log(p) + a * a * log(a) + m * b * b * log(b)) - c * entropy };
}

/** For each π below ½ the smallest c at which NSR can lower the entropy; below it, and from ½ on, it raises it. */
function entropyBoundary() {
  const points = [[0, 0]];
  for (let p = 0.02; p < 0.4999; p += 0.02) {
    let smallest = p; // at c = π it lowers it at the latest
    for (let m = 1; m < 5000; m = Math.max(m + 1, Math.round(m * 1.3))) {
      for (let i = 1; i < 200; i += 1) {
        const { c, value } = signUnderNsr(p, ((1 - p) * i) / 200, m);
        if (value <= 0) smallest = Math.min(smallest, c);
      }
    }
    points.push([p, smallest]);
  }
  return [...points, [0.5, 0.5]];
}

function drawPlane() {
  if (!columns["token.row"].length) return h("p", { class: "warn" }, "No tokens were recorded in these runs.");
  const rows = rowsOf(numeric("run", -1));
  const tokens = [];
  const filter = tokenFilterWithoutBrush();
  for (const row of rowsWithoutBrush())
    for (let i = firstToken[row]; i < firstToken[row + 1]; i += 1) if (!filter || filter(i)) tokens.push(i);
  const svg = s("svg", {
    viewBox: `0 0 ${PLANE.width} ${PLANE.height}`,
    id: "plane",
    role: "img",
    style: "touch-action:none;cursor:crosshair",
    "aria-label": `Phase plane of ${tokens.length} tokens; the fields below choose a part of it by numbers`,
  });
  svg.append(...planeFrame(), ...density(tokens), ...boundaries(), ...dots(tokens));
  svg.append(
    s("rect", { id: "brush", fill: "none", style: "stroke:var(--mark);stroke-width:2", "stroke-dasharray": "5 3" }),
    s("circle", { id: "here", r: 8, fill: "none", style: "stroke:var(--mark);stroke-width:3", visibility: "hidden" }),
  );
  brushing(svg);
  const brush = brushOfState();
  requestAnimationFrame(() => {
    showBrush(brush);
    markInPlane(tokenOfName(state.token));
  });
  const inside = brush ? tokens.filter((token) => inBrush(token, brush)).length : tokens.length;
  return h(
    "div",
    {},
    controls(),
    h(
      "div",
      { class: "split" },
      h(
        "section",
        { "aria-label": "Phase plane" },
        svg,
        planeLegend(),
        brushFields(brush),
        h(
          "p",
          { class: "note", id: "inside" },
          `${inside.toLocaleString("en")} of ${tokens.length.toLocaleString("en")} tokens`,
          brush ? " in the brush" : "; draw a rectangle to choose some",
          ". ",
          h("a", { href: linkTo({ ...state, view: "rollouts" }) }, "Show their responses"),
        ),
        h("h3", {}, "Responses with these tokens"),
        h(
          "div",
          { id: "list" },
          paged(rows, (row) => drawRollout(row), `${rows.length.toLocaleString("en")} responses`),
        ),
      ),
      detailOf(),
    ),
  );
}

/** Run something as if nothing was brushed. */
function withoutBrush(body) {
  const kept = state;
  state = { ...state };
  delete state.brush;
  try {
    return body();
  } finally {
    state = kept;
  }
}
const rowsWithoutBrush = () => withoutBrush(() => rowsOf(numeric("run", -1)));
const tokenFilterWithoutBrush = () => withoutBrush(() => tokenFilter());

function planeFrame() {
  const marks = [0, 0.2, 0.4, 0.6, 0.8, 1];
  return [
    ...marks.flatMap((mark) => [
      s("line", { class: "grid", x1: planeX(mark), x2: planeX(mark), y1: planeY(0), y2: planeY(1) }),
      s("line", { class: "grid", y1: planeY(mark), y2: planeY(mark), x1: planeX(0), x2: planeX(1) }),
      s("text", { x: planeX(mark), y: planeY(0) + 18, "text-anchor": "middle" }, number(mark)),
      s("text", { x: planeX(0) - 8, y: planeY(mark) + 4, "text-anchor": "end" }, number(mark)),
    ]),
    s(
      "text",
      { x: planeX(0.5), y: PLANE.height - 8, "text-anchor": "middle" },
      "π(y), probability of the sampled token",
    ),
    s("text", { transform: `translate(14 ${planeY(0.5)}) rotate(-90)`, "text-anchor": "middle" }, "c = Σπ²"),
  ];
}

/** All tokens as shaded cells. */
function density(tokens) {
  const counts = new Map();
  for (const token of tokens) {
    const cell = (value) => Math.min(PLANE.cells - 1, Math.floor(value * PLANE.cells));
    const key =
      cell(Math.exp(columns["token.log_prob"][token])) * PLANE.cells + cell(columns["token.collision"][token]);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const most = Math.log1p(Math.max(1, ...counts.values()));
  const [w, height] = [planeX(1 / PLANE.cells) - planeX(0), planeY(0) - planeY(1 / PLANE.cells)];
  return [...counts].map(([key, count]) =>
    s("rect", {
      x: planeX(Math.floor(key / PLANE.cells) / PLANE.cells),
      y: planeY((key % PLANE.cells) / PLANE.cells) - height,
      width: w,
      height,
      style: `fill:var(--soft);opacity:${(0.08 + 0.4 * (Math.log1p(count) / most)).toFixed(3)}`,
    }),
  );
}

/** Where tokens can be, the squeeze boundary, and where the entropy's sign turns. */
function boundaries() {
  const grid = Array.from({ length: 101 }, (_, i) => i / 100);
  const line = (points, style, id = null) =>
    s("polyline", { id, points: points.map(([p, c]) => `${planeX(p)},${planeY(c)}`).join(" "), fill: "none", style });
  return [
    line(
      grid.map((p) => [p, p * p]),
      "stroke:var(--soft);stroke-width:1",
    ),
    line(
      grid.map((p) => [p, p * p + (1 - p) ** 2]),
      "stroke:var(--soft);stroke-width:1",
    ),
    line(
      [
        [0, 0],
        [1, 1],
      ],
      "stroke:var(--ink);stroke-width:2",
    ),
    line(entropyBoundary(), "stroke:var(--mark);stroke-width:2.5;stroke-dasharray:7 4", "entropy-line"),
  ];
}

/** A sample of single tokens: circles where NSR would raise the entropy, crosses where it would lower it. */
function dots(tokens) {
  const stride = Math.max(1, Math.ceil(tokens.length / PLANE.most));
  const brush = brushOfState();
  return tokens
    .filter((token, at) => at % stride === 0)
    .map((token) => {
      const x = statisticsOf(token);
      const [a, b] = [planeX(Math.exp(x.logProb)), planeY(x.collision)];
      const raises = entropyChange(x, -1) > 0;
      const look = raises ? "fill:var(--rewarded)" : "stroke:var(--unrewarded);stroke-width:1.4;fill:none";
      const style = `${look};opacity:${!brush || inBrush(token, brush) ? 0.9 : 0.15};cursor:pointer`;
      return raises
        ? s("circle", { cx: a, cy: b, r: 2.6, style, "data-dot": token })
        : s("path", { d: `M${a - 2.6},${b - 2.6}l5.2,5.2m0,-5.2l-5.2,5.2`, style, "data-dot": token });
    });
}

function planeLegend() {
  return h(
    "p",
    { class: "note" },
    "Solid line: π(y) = c, the squeeze boundary. Left of it the tail moves with y, and NSR lowers the entropy. Right of ",
    h("b", { style: "color:var(--mark)" }, "the dashed line"),
    " NSR raises it; between the two it depends on the other tokens. ",
    h("span", { class: "good" }, "● NSR of this token raises the entropy"),
    " ",
    h("span", { class: "bad" }, "× lowers it"),
    ". Thin lines: where a token can be. Shades count all tokens, marks are a sample.",
  );
}

function brushFields(brush) {
  const values = brush ?? [0, 1, 0, 1];
  const names = ["π(y) from", "π(y) to", "c from", "c to"];
  return h(
    "div",
    { class: "controls" },
    names.map((name, at) =>
      entry(name, { type: "number", min: 0, max: 1, step: 0.01, value: values[at], style: "width:6rem" }, (value) => {
        const next = [...values];
        next[at] = Math.min(1, Math.max(0, Number(value) || 0));
        const [from, to] = at < 2 ? [0, 1] : [2, 3];
        if (next[from] > next[to]) next[at === from ? to : from] = next[at];
        change({ brush: next.join(","), page: null });
      }),
    ),
  );
}

/** Draw a rectangle with the pointer; a press without a move opens the nearest mark. */
function brushing(svg) {
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const within = (value) => Math.min(1, Math.max(0, value));
    return [
      within((point.x - planeX(0)) / (planeX(1) - planeX(0))),
      within((point.y - planeY(0)) / (planeY(1) - planeY(0))),
    ];
  };
  const between = ([a, b], [c, d]) =>
    [Math.min(a, c), Math.max(a, c), Math.min(b, d), Math.max(b, d)].map((value) => Number(value.toFixed(3)));
  let start = null;
  svg.addEventListener("pointerdown", (event) => {
    start = at(event);
    svg.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (start) showBrush(between(start, at(event)));
  });
  svg.addEventListener("pointerup", (event) => {
    if (!start) return;
    const brush = between(start, at(event));
    start = null;
    if (brush[1] - brush[0] < 0.008 && brush[3] - brush[2] < 0.008) {
      const dot = document.elementsFromPoint(event.clientX, event.clientY).find((element) => element.dataset.dot);
      showBrush(brushOfState());
      if (dot) openToken(Number(dot.dataset.dot));
    } else change({ brush: brush.join(","), page: null });
  });
}

function showBrush(brush) {
  const rect = document.getElementById("brush");
  if (!rect) return;
  const [x0, x1, y0, y1] = brush ?? [0, 0, 0, 0];
  for (const [name, value] of Object.entries({
    x: planeX(x0),
    y: planeY(y1),
    width: planeX(x1) - planeX(x0),
    height: planeY(y0) - planeY(y1),
    visibility: brush ? "visible" : "hidden",
  }))
    rect.setAttribute(name, value);
}

/** A ring around a token of the list, where the plane is drawn. */
function markInPlane(token) {
  const ring = document.getElementById("here");
  if (!ring) return;
  ring.setAttribute("visibility", token < 0 ? "hidden" : "visible");
  if (token < 0) return;
  ring.setAttribute("cx", planeX(Math.exp(columns["token.log_prob"][token])));
  ring.setAttribute("cy", planeY(columns["token.collision"][token]));
}
