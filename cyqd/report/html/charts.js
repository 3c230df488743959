"use strict";
/* The charts of results, scores, similarity and time. */

function drawResults() {
  const names = [...run.tasks, "mean"];
  const rows = [...run.rows].reverse();
  const traces = names.map((name, k) => {
    const isTask = k < run.tasks.length;
    const cells = rows.map((row) => (isTask ? row.tasks[name] : row.mean));
    const color = isTask ? colour(k) : INK;
    const words = ({ mean, low, high }) => `${short(name)} ${digits(mean)} [${digits(low)}, ${digits(high)}]`;
    return {
      type: "scatter", mode: "markers", name: short(name),
      x: cells.map((cell) => cell.mean),
      y: rows.map((_, i) => i + 0.56 * (0.5 - k / run.tasks.length)),
      error_x: {
        type: "data", symmetric: false, width: 0, thickness: 2, color,
        array: cells.map((cell) => cell.high - cell.mean), arrayminus: cells.map((cell) => cell.mean - cell.low),
      },
      marker: { color, size: NARROW ? 5 : 8, symbol: isTask ? "circle" : "diamond" },
      text: cells.map((cell, i) => `<b>${short(rows[i].model, 40)}</b><br>${words(cell)}`),
      hoverinfo: "text",
    };
  });
  const label = (row) => short(row.model, NARROW ? 18 : 40) + (row.model === run.final ? " ★" : "");
  const places = rows.map((_, i) => i);
  const stripes = places.map((i) => ({
    type: "rect", xref: "paper", x0: 0, x1: 1, y0: i - 0.5, y1: i + 0.5,
    fillcolor: i % 2 ? "#fff" : "#f5f6f8", line: { width: 0 }, layer: "below",
  }));
  find("results-chart").style.height = `${110 + names.length * (22 + 11 * rows.length)}px`;
  Plotly.newPlot("results-chart", traces, layout("score on the test problems", "", {
    xaxis: { fixedrange: true },
    yaxis: { ...FIXED, tickvals: places, ticktext: rows.map(label), range: [-0.5, rows.length - 0.5] },
    shapes: stripes, legend: KEY_ABOVE, dragmode: false,
  }), CONFIG);
}

function curve(name, x, y, text, line) {
  return { type: "scatter", mode: "lines", name, x, y, text, hoverinfo: "text", line };
}

/* The best score of an archive on its own task, as steps; the experts are one step. */
function archiveCurve(archive) {
  const best = new Map();  // by generation
  let record = null;
  for (const [model, where] of run.changes) {
    if (where !== archive || (record !== null && run.scores[model][archive] <= run.scores[record][archive])) continue;
    record = model;
    best.set(run.generation[model], model);
  }
  const models = [...best.values(), record];
  const words = (model) => `best of the archive ${short(run.tasks[archive])}<br>${describe(model, archive)}`;
  return curve(
    `archive ${short(run.tasks[archive])}: best score`, [...best.keys(), run.generation.at(-1)],
    models.map((model) => run.scores[model][archive]), models.map(words),
    { color: colour(archive), width: 2, shape: "hv" },
  );
}

function drawCurve() {
  const models = means.map((_, model) => model);
  const best = new Map();  // by generation
  let record = -Infinity;
  models.forEach((model) => best.set(run.generation[model], (record = Math.max(record, means[model]))));
  const traces = [
    {
      type: "scatter", mode: "markers", name: "every model's mean", x: run.generation, y: means, customdata: models,
      text: models.map((model) => describe(model)), hoverinfo: "text",
      marker: { color: "#8a96a3", size: 5, opacity: 0.5 },
    },
    curve("best mean so far", [...best.keys()], [...best.values()],
      [...best.values()].map((value) => `best mean so far ${digits(value)}`), { color: INK, width: 3, shape: "hv" }),
  ];
  if (run.changes.length) traces.push(...run.tasks.map((_, archive) => archiveCurve(archive)));
  run.experts.forEach((expert, task) => {
    if (expert === null) return;
    const name = `expert ${short(run.tasks[task])}: mean`;
    traces.push(curve(name, [run.generation[0], run.generation.at(-1)], [means[expert], means[expert]],
      Array(2).fill(`${name} ${digits(means[expert])}`), { color: colour(task), width: 1.5, dash: "dot" }));
  });
  find("curve-chart").style.height = `${430 + 20 * Math.ceil(traces.length / (NARROW ? 1 : 4))}px`;
  Plotly.newPlot("curve-chart", traces, layout("generation", "score", {
    xaxis: generationAxis(run.generation), legend: KEY_ABOVE,
  }), CONFIG);
}

function drawMatrix(id, names, values) {
  const lowest = Math.min(0.9, ...values.flat().filter((value) => value !== null));
  const matrix = {
    type: "heatmap", z: values, colorscale: SCALE, zmin: lowest, zmax: 1, showscale: false,
    xgap: 2, ygap: 2, texttemplate: "%{z:.4f}", textfont: { size: 13 }, hoverongaps: false, hoverinfo: "text",
    text: values.map((row, i) => row.map((value, j) => `${short(names[i])} and ${short(names[j])}: ${value}`)),
  };
  const ticktext = names.map((name) => short(name, 14));
  const axis = { ...FIXED, tickvals: names.map((_, i) => i), ticktext, ticks: "" };
  const yaxis = { ...axis, autorange: "reversed" };
  Plotly.newPlot(id, [matrix], layout("", "", { xaxis: axis, yaxis, dragmode: false }), CONFIG);
}

const SYMBOLS = [
  "circle", "square", "diamond", "cross", "x", "triangle-up", "star", "triangle-down", "pentagon", "hourglass",
];

/* What the final model keeps of two experts' scores, against their similarity. */
function drawKept(points) {
  const sorted = [...points].sort((a, b) => a.similarity - b.similarity);
  const names = sorted.map(({ pair }) => pair.map((task) => short(task, 18)).join(" + "));
  const words = ({ similarity, kept }, i) =>
    `${names[i]}<br>similarity ${digits(similarity, 4)}<br>keeps ${digits(kept)} of the experts' scores`;
  const dots = sorted.map((point, i) => ({
    type: "scatter", mode: "markers", name: names[i], x: [point.similarity], y: [point.kept],
    marker: { size: 10, color: "#0b6e99", symbol: SYMBOLS[i % SYMBOLS.length] },
    hovertext: words(point, i), hoverinfo: "text",
  }));
  const [low, high] = [sorted[0].similarity, sorted.at(-1).similarity];
  const room = Math.max(0.25 * (high - low), 1e-4);
  find("kept-chart").style.height = `${340 + 20 * Math.max(names.length - 3, 0)}px`;
  Plotly.newPlot("kept-chart", dots, layout("similarity of the experts", "merged / expert's own score", {
    xaxis: { fixedrange: true, range: [low - room, high + room], nticks: 5 },
    yaxis: { fixedrange: true }, dragmode: false, showlegend: true,
    legend: { ...KEY_ABOVE, orientation: "v", itemsizing: "constant" },
  }), CONFIG);
}

function drawSimilarity() {
  const { models, similarity, cosine, points } = run.similarity;
  if (similarity) drawMatrix("similarity-chart", models, similarity);
  if (cosine) drawMatrix("cosine-chart", models, cosine);
  if (points.length) drawKept(points);
}

function drawTime() {
  const { generations, stack } = run.phases;
  const traces = Object.entries(stack).map(([name, seconds], i) => ({
    type: "scatter", mode: "lines", stackgroup: "phases", name: short(name), x: generations, y: seconds,
    line: { width: 0 }, fillcolor: colour(i), hovertemplate: "generation %{x}: %{y:.3f} s",
  }));
  const legend = { ...KEY_ABOVE, traceorder: "normal" };
  Plotly.newPlot("time-chart", traces, layout("generation", "seconds per model", {
    xaxis: generationAxis(generations), legend,
  }), CONFIG);
}

const waitingCharts = [
  run.rows.length && drawResults,
  run.scores.length && drawCurve,
  run.parents.some((parents) => parents) && offerLineages,
  run.similarity.models && drawSimilarity,
  Object.keys(run.phases.stack).length && drawTime,
].filter(Boolean);

/* One chart after another, so that the page answers between them. */
function drawNext() {
  const draw = waitingCharts.shift();
  if (!draw) return performance.mark("drawn");
  setTimeout(drawNext);
  draw();
}
drawNext();
