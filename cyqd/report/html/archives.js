"use strict";
/* The archives, replayed generation by generation from the models that entered them. */

const steps = [...new Set(run.generation)].sort((a, b) => a - b);
const qualities = run.changes.map(([model, archive]) => run.scores[model][archive]);
const lowest = Math.floor(20 * Math.min(...qualities)) / 20;
const highest = Math.max(Math.ceil(20 * Math.max(...qualities)) / 20, lowest + 0.05);
const entered = run.tasks.map(() => new Map());  // by archive, the cell of each model
run.changes.forEach(([model, archive, cell]) => entered[archive].set(model, cell));
const bins = run.edges.map((edges) => edges.length - 1);
/* The tasks on the axes of each map; with two tasks there is but one. */
const axes = run.tasks.map((_, archive) => [...run.tasks.keys()].filter((task) => task !== archive).slice(0, 2));

/* The colour of a quality, as the scale of the maps has it. */
function shade(quality) {
  const place = ((quality - lowest) / (highest - lowest)) * (SHADES.length - 1);
  const below = Math.min(Math.floor(place), SHADES.length - 2);
  const part = (level, i) => parseInt(SHADES[level].slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => part(below, i) + (place - below) * (part(below + 1, i) - part(below, i)));
  return `rgb(${mixed.map(Math.round).join()})`;
}

/* The archives after a generation, each a map from cell, as text, to model. */
function archivesAt(generation) {
  const archives = run.tasks.map(() => new Map());
  for (const [model, archive, cell] of run.changes) {
    if (run.generation[model] <= generation) archives[archive].set(cell.join(), model);
  }
  return archives;
}

const along = (cell, archive, task) => cell[task < archive ? task : task - 1];
const empty = (archive) => {
  const [x, y] = axes[archive];
  return Array.from({ length: y === undefined ? 1 : bins[y] }, () => Array(bins[x]).fill(null));
};

/* The best model at each place of a map, and how many there are, row by row. */
function project(cells, archive) {
  const [x, y] = axes[archive];
  const models = empty(archive);
  const counts = empty(archive);
  for (const [key, model] of cells) {
    const cell = key.split(",").map(Number);
    const column = along(cell, archive, x);
    const row = y === undefined ? 0 : along(cell, archive, y);
    counts[row][column] += 1;
    const best = models[row][column];
    if (best === null || run.scores[model][archive] > run.scores[best][archive]) models[row][column] = model;
  }
  return { models, counts };
}

/* The cell is told as `export --cell` takes it. */
function words(model, count, archive) {
  const lines = [describe(model, archive), `cell ${safe(run.tasks[archive])}:${entered[archive].get(model).join()}`];
  if (count > 1) lines.push(`best of ${count} elites at this place`);
  return lines.join("<br>");
}

/* The experts' cells; where several share a place, one lies within the other. */
function outlines(archive, top) {
  const [x, y] = axes[archive];
  const taken = new Map();
  return run.expert_cells[archive].flatMap((cell, expert) => {
    const place = axes[archive].map((task) => along(cell, archive, task));
    const level = taken.get(place.join()) ?? 0;
    taken.set(place.join(), level + 1);
    const sides = (task, bin) => {
      const [low, high] = [run.edges[task][bin], run.edges[task][bin + 1]];
      const inset = (0.04 + 0.18 * level) * (high - low);
      return [low + inset, high - inset];
    };
    const [x0, x1] = sides(x, place[0]);
    const [y0, y1] = y === undefined ? [-0.03 * top, top] : sides(y, place[1]);
    const lines = [{ color: "#fff", width: 5 }, { color: colour(expert), width: 2.5 }];
    return lines.map((line) => ({ type: "rect", x0, x1, y0, y1, line }));
  });
}

function drawGrid(archive, { models, counts }) {
  const [x, y] = axes[archive];
  const edges = { x: run.edges[x], y: run.edges[y], type: "heatmap", showscale: false, xgap: 1, ygap: 1 };
  const nothing = models.map((row) => row.map(() => 0));
  const tiles = { ...edges, z: nothing, colorscale: [[0, TILE], [1, TILE]], hoverinfo: "skip" };
  const elites = {
    ...edges,
    z: models.map((row) => row.map((model) => (model === null ? null : run.scores[model][archive]))),
    customdata: models,
    text: models.map((row, i) => row.map((model, j) => (model === null ? "" : words(model, counts[i][j], archive)))),
    hoverinfo: "text", hoverongaps: false, colorscale: SCALE, zmin: lowest, zmax: highest,
  };
  const title = (task) => `score on ${short(run.tasks[task])}`;
  Plotly.react(`map-${archive}`, [tiles, elites], layout(title(x), title(y), {
    xaxis: { ...FIXED, nticks: 7, range: [run.edges[x][0], run.edges[x].at(-1)] },
    yaxis: { ...FIXED, nticks: 7, range: [run.edges[y][0], run.edges[y].at(-1)] },
    shapes: outlines(archive), dragmode: false,
  }), CONFIG);
}

function drawBars(archive, { models, counts }) {
  const [x] = axes[archive];
  const edges = run.edges[x];
  const centres = edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
  const width = edges[1] - edges[0];
  const y = models[0].map((model) => (model === null ? null : run.scores[model][archive]));
  const common = {
    x: centres, y, customdata: models[0], hoverinfo: "text",
    hovertext: models[0].map((model, j) => (model === null ? "" : words(model, counts[0][j], archive))),
  };
  const color = y.map((quality) => shade(quality ?? lowest));
  const bars = { ...common, type: "bar", width: 0.92 * width, marker: { color } };
  const cap = { symbol: "line-ew", size: 12, line: { width: 2, color: INK } };  // shows a score of 0 too
  const caps = { ...common, type: "scatter", mode: "markers", marker: cap };
  const top = 1.08 * highest;
  const tile = (x) => ({
    type: "rect", x0: x - 0.46 * width, x1: x + 0.46 * width, y0: 0, y1: top,
    fillcolor: TILE, line: { width: 0 }, layer: "below",
  });
  const tiles = centres.filter((_, j) => models[0][j] === null).map(tile);
  const title = (task) => `score on ${short(run.tasks[task])}`;
  Plotly.react(`map-${archive}`, [bars, caps], layout(title(x), title(archive), {
    xaxis: { ...FIXED, range: [edges[0], edges.at(-1)] },
    yaxis: { ...FIXED, range: [-0.04 * top, top] },
    shapes: [...tiles, ...outlines(archive, top)], showlegend: false, dragmode: false,
  }), CONFIG);
}

function drawMap(archive, cells) {
  (run.tasks.length === 2 ? drawBars : drawGrid)(archive, project(cells, archive));
}

function drawStatistics(archives) {
  find("statistics").tBodies[0].replaceChildren(...archives.map((cells, archive) => {
    const scores = [...cells.values()].map((model) => run.scores[model][archive]);
    const size = bins.reduce((product, n, task) => (task === archive ? product : product * n), 1);
    const row = document.createElement("tr");
    const texts = [run.tasks[archive], scores.length, `${digits((100 * scores.length) / size, 1)} %`,
      digits(scores.reduce((a, b) => a + b, 0), 2), digits(Math.max(...scores)), digits(mean(scores))];
    texts.forEach((text, i) => {
      const cell = document.createElement(i ? "td" : "th");
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }));
}

const slider = find("generation");

function drawArchives() {
  const generation = steps[slider.value];
  const archives = archivesAt(generation);
  find("generation-label").textContent = `${generation} of ${steps.at(-1)}`;
  slider.setAttribute("aria-valuetext", `generation ${generation}`);
  archives.forEach((cells, archive) => drawMap(archive, cells));
  drawStatistics(archives);
}

let waiting = 0;
slider.addEventListener("input", () => {  // at most one drawing a frame
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawArchives);
});

let playing = 0;
function stop() {
  clearInterval(playing);
  playing = 0;
  find("play").textContent = "▶";
  find("play").setAttribute("aria-label", "Play the generations");
}
find("play").addEventListener("click", () => {
  if (playing) return stop();
  const last = steps.length - 1;
  if (Number(slider.value) === last) slider.value = 0;
  find("play").textContent = "❚❚";
  find("play").setAttribute("aria-label", "Pause");
  playing = setInterval(() => {
    slider.value = Math.min(Number(slider.value) + Math.ceil(steps.length / 150), last);
    drawArchives();
    if (Number(slider.value) === last) stop();
  }, 100);
});

for (const select of document.querySelectorAll(".axes select")) {
  const { archive, axis } = select.dataset;
  const [x, y] = axes[archive];
  select.value = [x, y][axis];
  select.addEventListener("change", () => {
    const chosen = Number(select.value);
    const other = axes[archive][1 - axis];
    if (chosen === other) axes[archive].reverse();  // the two axes change places
    else axes[archive][axis] = chosen;
    select.closest(".axes").querySelectorAll("select").forEach((each, i) => (each.value = axes[archive][i]));
    drawMap(Number(archive), archivesAt(steps[slider.value])[archive]);
  });
}

find("scale").style.background = `linear-gradient(to right, ${SHADES.join()})`;
find("scale-low").textContent = digits(lowest, 2);
find("scale-high").textContent = digits(highest, 2);
document.querySelectorAll(".tile").forEach((box) => (box.style.background = TILE));
document.querySelectorAll(".outline").forEach((box) => (box.style.borderColor = colour(Number(box.dataset.task))));
slider.max = steps.length - 1;
slider.value = slider.max;
drawArchives();
