// The sliders: scores at their thresholds, looked up in the table of all thresholds
// (threshold_grid.py), the points in the charts, and the heat map.

const AXES = ["lesion", "top", "area", "bottom"];  // of the table, in this order
const grid = DATA.grid;

function positionsOf(read) {
  return Object.fromEntries(AXES.map((name) => [name, grid.sliders[name] ? read(name) : 0]));
}

const frozenPositions = () => positionsOf((name) => grid.sliders[name].position);
const movedPositions = () => positionsOf((name) => Number(byId(`slider-${name}`).value));

function placeIn(positions) {
  return AXES.reduce((place, name) => {
    const length = grid.sliders[name] ? grid.sliders[name].values.length : 1;
    return place * length + positions[name];
  }, 0);
}

// Counts of images, and scores; PPV and NPV by Bayes' rule, at the stated prevalence.
function scoresAt(positions) {
  const place = placeIn(positions), { positives, negatives, scores } = grid;
  const hits = scores.hits[place], alarms = scores.alarms[place];
  const sensitivity = hits / positives, specificity = 1 - alarms / negatives;
  const share = grid.prevalence ?? positives / (positives + negatives);
  const found = share * sensitivity, cleared = (1 - share) * specificity;
  return {
    hits, misses: positives - hits, alarms, clears: negatives - alarms,
    dice_mean: scores.dice_mean?.[place], dice_positives: scores.dice_positives?.[place] ?? NaN,
    sensitivity, specificity,
    ppv: found / (found + (1 - share) * (1 - specificity)),
    npv: cleared / (cleared + share * (1 - sensitivity)),
    precision: hits / (hits + alarms),
  };
}

// As many digits as the number of images supports (trainer/scoring/digits.py).
function shareText(value, decimals) {
  if (!Number.isFinite(value)) return "-";
  const text = value.toFixed(decimals);
  const step = 10 ** -decimals;
  if (Number(text) === 0 && value > 0) return `<${step.toFixed(decimals)}`;
  return Number(text) === 1 && value < 1 ? `>${(1 - step).toFixed(decimals)}` : text;
}

function showScores(scores, isFrozen) {
  for (const [name, value] of Object.entries(scores)) {
    const cell = byId(`now-${name}`);
    if (!cell) continue;
    const decimals = grid.decimals[name];
    const text = decimals === undefined ? String(value) : shareText(value, decimals);
    cell.textContent = isFrozen ? byId(`frozen-${name}`).textContent : text;
  }
}

// A point of a chart whose axes go from 0 to 1.
function movePoint(id, x, y) {
  const point = byId(id);
  if (!point) return;
  const isDefined = Number.isFinite(x) && Number.isFinite(y);
  point.setAttribute("visibility", isDefined ? "visible" : "hidden");
  const [left, top, right, bottom] = point.ownerSVGElement.dataset.plot.split(" ").map(Number);
  const place = [left + (right - left) * x, bottom - (bottom - top) * y];
  if (isDefined) point.setAttribute("transform", `translate(${place.join(" ")})`);
}

function colourHeatMap(positions) {
  const rows = [...byId("heat-map").tBodies[0].rows];
  const values = rows.map((row, top) => [...row.cells].slice(1).map((_, bottom) =>
    grid.heat_map.scores[placeIn({ ...positions, top, bottom })]));
  const low = Math.min(...values.flat()), high = Math.max(...values.flat());
  rows.forEach((row, top) => [...row.cells].slice(1).forEach((cell, bottom) => {
    const value = values[top][bottom];
    cell.textContent = value.toFixed(grid.heat_map.decimals);
    cell.style.setProperty("--heat", high > low ? ((value - low) / (high - low)).toFixed(3) : "0");
    cell.classList.toggle("moved", top === positions.top && bottom === positions.bottom);
  }));
}

function update() {
  const positions = movedPositions();
  const isFrozen = placeIn(positions) === placeIn(frozenPositions());
  for (const [name, { values }] of Object.entries(grid.sliders)) {
    const value = values[positions[name]];
    const text = name === "area" ? `${(100 * value).toFixed(2)}%` : String(Number(value.toFixed(4)));
    byId(`value-${name}`).textContent = text;
    byId(`slider-${name}`).setAttribute("aria-valuetext", text);
  }
  const scores = scoresAt(positions);
  showScores(scores, isFrozen);
  movePoint("roc-moved", 1 - scores.specificity, scores.sensitivity);
  movePoint("pr-moved", scores.sensitivity, scores.precision);
  if (byId("heat-map")) colourHeatMap(positions);
  return redraw(positions, isFrozen);
}

function resetThresholds() {
  for (const [name, { position }] of Object.entries(grid.sliders)) byId(`slider-${name}`).value = position;
  update();
}

if (grid) {
  for (const name of Object.keys(grid.sliders)) byId(`slider-${name}`).addEventListener("input", update);
  byId("reset").addEventListener("click", resetThresholds);
  update();
}
