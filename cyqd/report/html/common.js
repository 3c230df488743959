"use strict";
/* What all charts share: the run's data, colours, words. */

const run = JSON.parse(document.getElementById("run").textContent);
const find = (id) => document.getElementById(id);

const { tasks: COLOURS, scale: SHADES, empty: TILE } = run.palette;  // as the figures have them
const SCALE = SHADES.map((colour, i) => [i / (SHADES.length - 1), colour]);
const INK = "#1c2530";
const FAINT = "#e4e8ec";
const TOUCH = matchMedia("(pointer: coarse)").matches;  // dragging in a chart would keep a page from scrolling
const NARROW = innerWidth < 760;
const FIXED = { showgrid: false, fixedrange: true };
const CONFIG = { responsive: true, displayModeBar: false };

const colour = (task) => COLOURS[task % COLOURS.length];
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const digits = (value, n = 3) => value.toFixed(n);
/* Plotly reads its texts as a little HTML. */
const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, n = 26) => safe(text.length > n ? text.slice(0, n - 1) + "…" : text);

const means = run.scores.map(mean);
const expertTask = new Map(run.experts.flatMap((model, task) => (model === null ? [] : [[model, task]])));

function nameOf(model) {
  return expertTask.has(model) ? `model ${model}, expert ${run.tasks[expertTask.get(model)]}` : `model ${model}`;
}

/* What one sees when pointing at a model. */
function describe(model, task = -1) {
  const lines = [`<b>${short(nameOf(model), 40)}</b>, generation ${run.generation[model]}`];
  run.tasks.forEach((name, k) => {
    const line = `${short(name)} ${digits(run.scores[model][k])}`;
    lines.push(k === task ? `<b>${line}</b>` : line);
  });
  lines.push(`mean ${digits(means[model])}`);
  if (run.parents[model]) {
    const weights = run.coefficients[model];  // none where a child is no weighted sum of its parents
    const parts = run.parents[model].map((parent, i) => (weights ? `${digits(weights[i])} × ${parent}` : parent));
    lines.push(`parents: ${parts.join(weights ? " + " : ", ")}`);
  }
  if (run.shares[model].length) {
    const parts = run.shares[model].map((share, k) => `${short(run.tasks[k], 14)} ${digits(share, 2)}`);
    lines.push(`α: ${parts.join(", ")}`);
  }
  return lines.join("<br>");
}

function layout(x, y, extra = {}) {
  const axis = {
    gridcolor: FAINT, zeroline: false, linecolor: "#9aa5b1", automargin: true, ticks: "outside", tickcolor: "#9aa5b1",
  };
  const { xaxis = {}, yaxis = {}, ...rest } = extra;
  return {
    font: { family: "system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", size: 12, color: INK },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 50, r: 12, t: 10, b: 44 },
    hovermode: "closest",
    hoverlabel: { bgcolor: "#fff", bordercolor: "#9aa5b1", font: { size: 12, color: INK }, align: "left" },
    dragmode: TOUCH ? false : "zoom",
    xaxis: { ...axis, title: { text: x }, ...xaxis },
    yaxis: { ...axis, title: { text: y }, ...yaxis },
    ...rest,
  };
}

/* An axis of generations, which are whole numbers. */
function generationAxis(generations) {
  return generations.at(-1) - generations[0] < 8 ? { dtick: 1 } : {};
}

const KEY_ABOVE = { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" };
