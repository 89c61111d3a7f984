/** The overview: what the runs say, their curves, their tables, and what they are. */

function drawOverview() {
  const axis =
    state.x ??
    (header.charts.some(
      (chart) => chart.axis === "step" && chart.series.some((one) => one.points.some((point) => point[0] !== null)),
    )
      ? "step"
      : "update");
  const { verdict, notes, tables } = header.summary;
  const said = [...header.notes, ...notes].filter((note, at, all) => all.indexOf(note) === at);
  return h(
    "div",
    {},
    said.map((note) => h("p", { class: "warn" }, note)),
    verdict.length
      ? [h("h2", {}, "In words"), verdict.map((sentence) => h("p", { class: "verdict" }, sentence))]
      : null,
    header.claims.length
      ? [
          h("h2", {}, "Verdicts on the claims of the ledger"),
          tableOf([["claim", "in short", "verdict", "why"], ...header.claims], "Verdicts", "words"),
        ]
      : null,
    header.charts.length ? h("h2", {}, "Curves") : null,
    header.charts.length
      ? h(
          "div",
          { class: "controls" },
          choice(
            "Draw against",
            [
              ["step", "step"],
              ["update", "optimiser update"],
              ["reached", "Pass@1 reached"],
            ],
            axis,
            (value) => change({ x: value }),
          ),
          h("p", { class: "note" }, "Bands are 95% intervals, over prompts with one seed and over seeds with several."),
        )
      : null,
    h(
      "div",
      { class: "charts" },
      header.charts.map((chart) => lineChart(chart, knownAgainst(chart, axis) ? axis : "update")),
    ),
    tables.length ? h("h2", {}, "Tables") : null,
    tables.map((table) => [
      h("h3", {}, table.title),
      tableOf(table.rows, table.title),
      table.note ? h("p", { class: "note" }, table.note) : null,
    ]),
    h("h2", {}, "Runs"),
    runTable(),
    header.recipe.length
      ? h(
          "details",
          {},
          h("summary", {}, "Recipe, every field"),
          tableOf([["field", ...header.runs.map((run) => run.id)], ...differentFirst(header.recipe)], "Recipe"),
        )
      : null,
    h("h2", {}, "What this page shows"),
    h(
      "p",
      { class: "note" },
      `${total("tokens")} tokens of ${total("rollouts")} responses. `,
      "A token is shown where its statistics were recorded; its outcome is known where its context was followed through ",
      "the update. Held-out prefixes have a view of their own.",
    ),
    header.left_out.map((sentence) => h("p", { class: "note" }, sentence)),
  );
}

const total = (name) => header.runs.reduce((sum, run) => sum + run[name], 0).toLocaleString("en");

/** Whether a chart has points on an axis: means over recorded tokens are known against updates alone. */
const knownAgainst = (chart, axis) =>
  axis === "reached" || chart.series.some((one) => one.points.some((point) => point[axis === "step" ? 0 : 1] !== null));

/** Rows whose values differ between runs stand first. */
const differentFirst = (rows) =>
  [...rows].sort((a, b) => (new Set(a.slice(1)).size > 1 ? 0 : 1) - (new Set(b.slice(1)).size > 1 ? 0 : 1));

function runTable() {
  const fields = [
    ["method", (run) => run.label],
    ["seed", (run) => run.seed ?? "–"],
    ["status", (run) => run.status],
    ["steps", (run) => run.steps ?? "–"],
    ["recorded by", (run) => run.engine],
    ["task", (run) => run.task ?? "–"],
    ["temperature", (run) => run.temperature ?? "–"],
    ["weights", (run) => (run.weights === "measured" ? "measured" : run.weights ? `assumed: ${run.weights}` : "none")],
    ["shown responses", (run) => run.rollouts],
    ["shown tokens", (run) => run.tokens],
    ["device", (run) => `${run.device ?? "–"} ${run.dtype ?? ""}`],
    ["commit", (run) => (run.commit ?? "–").slice(0, 8)],
    [
      "versions",
      (run) =>
        Object.entries(run.versions)
          .map(([name, version]) => `${name} ${version}`)
          .join(", "),
    ],
  ];
  return tableOf(
    [
      ["run", ...fields.map(([name]) => name)],
      ...header.runs.map((run) => [run.id, ...fields.map(([, value]) => String(value(run)))]),
    ],
    "Runs",
  );
}
