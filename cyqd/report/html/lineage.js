"use strict";
/* A model's ancestors back to the experts, and what it holds of them. */

/* The ancestors, newest first, and how much of each one's task vector the chosen model holds: NaN if a child on the
   way is no weighted sum of its parents. */
function ancestry(chosen) {
  const held = new Map([[chosen, 1]]);
  const known = [];
  for (let model = chosen; model >= 0; model--) {  // parents are older than their children
    if (!held.has(model)) continue;
    known.push(model);
    (run.parents[model] ?? []).forEach((parent, i) =>
      held.set(parent, (held.get(parent) ?? 0) + held.get(model) * (run.coefficients[model]?.[i] ?? NaN)));
  }
  return { known, held };
}

function drawAncestors(chosen, { known, held }) {
  const x = [], y = [];
  for (const model of known) {
    for (const parent of run.parents[model] ?? []) {
      x.push(run.generation[model], run.generation[parent], null);
      y.push(means[model], means[parent], null);
    }
  }
  const lines = {
    type: "scatter", mode: "lines", x, y, hoverinfo: "skip",
    line: { color: "#4a5766", width: 1 }, opacity: Math.min(0.7, Math.max(0.2, 40 / known.length)),
  };
  const hue = (model) => {
    const shares = run.shares[model];
    return shares.length ? colour(shares.indexOf(Math.max(...shares))) : "#8a94a0";
  };
  const symbol = (model) => (model === chosen ? "star" : expertTask.has(model) ? "square" : "circle");
  const drawn = [...known].reverse();  // the chosen one last, on top
  const size = drawn.map((model) => held.get(model)).map((share) =>
    Number.isNaN(share) ? 8 : 5 + 17 * Math.sqrt(Math.min(Math.abs(share), 1)));
  const points = {
    type: "scatter", mode: "markers", customdata: drawn,
    x: drawn.map((model) => run.generation[model]),
    y: drawn.map((model) => means[model]),
    text: drawn.map((model) => {
      const share = Number.isNaN(held.get(model)) ? "not known" : digits(held.get(model), 2);
      return `${describe(model)}<br>held by the chosen model: ${share}`;
    }),
    hoverinfo: "text",
    marker: {
      size, symbol: drawn.map(symbol), color: drawn.map(hue),
      opacity: size.map((each) => Math.min(1, 0.35 + each / 14)), line: { color: "#fff", width: 1 },
    },
  };
  const frame = layout("generation", "mean score", {
    xaxis: generationAxis([0, run.generation[chosen]]), showlegend: false,
  });
  Plotly.react("lineage-chart", [lines, points], frame, CONFIG);
}

/* Of the experts among the ancestors. */
function drawShares(chosen, { held }) {
  const known = run.shares[chosen].length > 0;
  const present = [...run.tasks.keys()].filter((task) => known && held.has(run.experts[task]));
  const shares = present.map((task) => run.shares[chosen][task]);
  const places = [...present.keys()];
  const bars = {
    type: "bar", orientation: "h", x: shares, y: places, width: 0.6, hoverinfo: "none", cliponaxis: false,
    text: shares.map((share) => digits(share)), textposition: "auto", marker: { color: present.map(colour) },
  };
  const names = present.map((task) => short(run.tasks[task], 16));
  const yaxis = { ...FIXED, tickvals: places, ticktext: names, autorange: "reversed" };
  const xaxis = { fixedrange: true, zeroline: true, zerolinecolor: "#9aa5b1" };
  const label = known ? "share α" : "share α: not known";
  Plotly.react("shares-chart", [bars], layout(label, "", { xaxis, yaxis, dragmode: false }), CONFIG);
}

function drawLineage(chosen) {
  const ancestors = ancestry(chosen);
  drawAncestors(chosen, ancestors);
  drawShares(chosen, ancestors);
  const scores = run.tasks.map((task, k) => `${task} ${digits(run.scores[chosen][k])}`).join(", ");
  find("chosen-words").textContent =
    `${nameOf(chosen)}, generation ${run.generation[chosen]}: ${scores}, mean ${digits(means[chosen])}; ` +
    `${ancestors.known.length - 1} ancestors.`;
}

/* The models to choose from: the best, then all elites; where there are no archives, all models. */
function listModels(list) {
  const option = (model, why = "") => new Option(`${why}${nameOf(model)}, mean ${digits(means[model])}`, model);
  const group = (label, options) => {
    const made = document.createElement("optgroup");
    made.label = label;
    made.append(...options);
    list.append(made);
    return made;
  };
  const archives = typeof archivesAt === "function" ? archivesAt(Infinity) : [];
  const elites = [...new Set(archives.flatMap((cells) => [...cells.values()]))].sort((a, b) => a - b);
  const all = elites.length ? elites : means.map((_, model) => model);
  const newest = (models) => [...models].sort((a, b) => b - a);  // of equals the most recent is the best
  const top = (models, value) => newest(models).reduce((best, each) => (value(each) > value(best) ? each : best));
  const best = archives.map((cells, k) =>
    option(top(cells.values(), (model) => run.scores[model][k]), `best of the archive ${run.tasks[k]}: `));
  group("Best", [option(top(all, (model) => means[model]), "best mean: "), ...best]);
  group(elites.length ? "All elites" : "All models", all.map((model) => option(model)));
  return (model) => group("Clicked", [option(model)]);
}

function offerLineages() {
  const list = find("chosen");
  const add = listModels(list);
  const choose = (model) => {
    if (![...list.options].some((option) => Number(option.value) === model)) add(model);
    list.value = model;
    drawLineage(model);
  };
  list.addEventListener("change", () => drawLineage(Number(list.value)));
  drawLineage(Number(list.value));
  for (const chart of document.querySelectorAll(".map, #curve-chart, #lineage-chart")) {
    chart.on("plotly_click", ({ points: [point] }) => {
      const at = [point.pointNumber].flat();  // of a map, row and column
      const model = at.reduce((models, i) => models?.[i], point.data.customdata);
      if (typeof model === "number") choose(model);
    });
  }
}
