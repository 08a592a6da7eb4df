// Scores at the sliders' thresholds from each image's numbers, as trainer/evaluation/scores.py
// computes them; and the curves.
"use strict";

const byId = (id) => document.getElementById(id);
const formatted = (value) => (Number.isFinite(value) ? value.toFixed(4) : "-");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// {slider: {position, value}}, the position being the index of the value in NUMBERS' lists.
function thresholdsAt(positionOf) {
  return Object.fromEntries(Object.entries(SLIDERS).map(([name, slider]) => {
    const position = positionOf(name, slider);
    return [name, { position, value: slider.values[position] }];
  }));
}

const frozenThresholds = () => thresholdsAt((name, slider) => slider.position);
const movedThresholds = () => thresholdsAt((name) => Number(byId(`slider-${name}`).value));

// The dice of an image and whether it is called positive. Thresholds are compared in float32, which
// the probabilities are in.
function outcome(image, thresholds) {
  const { lesion, masks } = NUMBERS;
  let isKept = !thresholds.lesion || lesion[image] >= Math.fround(thresholds.lesion.value);
  if (!masks) return { isCalled: isKept };
  const area = Math.fround(Math.fround(thresholds.area.value) * Math.fround(masks.pixels[image]));
  isKept = isKept && masks.above_top[thresholds.top.position][image] >= area;
  const size = isKept ? masks.size[thresholds.bottom.position][image] : 0;
  const hits = isKept ? masks.hits[thresholds.bottom.position][image] : 0;
  const total = size + masks.truth[image];
  return { isCalled: size > 0, dice: total ? (2 * hits) / total : 1 };
}

function scoresAt(thresholds) {
  const outcomes = NUMBERS.positive.map((_, image) => outcome(image, thresholds));
  const positives = outcomes.filter((_, image) => NUMBERS.positive[image]);
  const negatives = outcomes.filter((_, image) => !NUMBERS.positive[image]);
  const sensitivity = mean(positives.map((one) => one.isCalled));
  const specificity = 1 - mean(negatives.map((one) => one.isCalled));
  const share = NUMBERS.prevalence ?? positives.length / outcomes.length;
  const hits = share * sensitivity, cleared = (1 - share) * specificity;
  return {
    dice_mean: mean(outcomes.map((one) => one.dice)),
    dice_positives: mean(positives.map((one) => one.dice)),
    sensitivity,
    specificity,
    ppv: hits / (hits + (1 - share) * (1 - specificity)),
    npv: cleared / (cleared + share * (1 - sensitivity)),
  };
}

function show(prefix, scores) {
  for (const [name, value] of Object.entries(scores)) {
    const cell = byId(`${prefix}-${name}`);
    if (cell) cell.textContent = formatted(value);
  }
}

function update() {
  const thresholds = movedThresholds();
  for (const [name, { value }] of Object.entries(thresholds)) {
    const text = name === "area" ? `${(100 * value).toFixed(2)}%` : String(Number(value.toFixed(4)));
    byId(`value-${name}`).textContent = text;
  }
  const scores = scoresAt(thresholds);
  show("now", scores);
  movePoint(scores);
}

function reset() {
  for (const [name, slider] of Object.entries(SLIDERS)) byId(`slider-${name}`).value = slider.position;
  update();
}

// ---- curves: SVG of [0, 1] x [0, 1], 340 x 300 with margins

const BLUE = "#1f4e9c", ORANGE = "#e08e2b", GREEN = "#2a9d5c", VIOLET = "#8a4fbf", GREY = "#99a3b3";
const across = (x) => 42 + 288 * x;
const up = (y) => 262 - 246 * y;

function element(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function axes(svg, xName, yName) {
  for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    const x = across(tick), y = up(tick);
    svg.append(element("line", { x1: x, x2: x, y1: up(0), y2: up(1), stroke: "#e6eaf0" }));
    svg.append(element("line", { x1: across(0), x2: across(1), y1: y, y2: y, stroke: "#e6eaf0" }));
    svg.append(element("text", { x, y: up(0) + 15, "text-anchor": "middle" }, tick));
    svg.append(element("text", { x: across(0) - 5, y: y + 4, "text-anchor": "end" }, tick));
  }
  svg.append(element("text", { x: across(0.5), y: 295, "text-anchor": "middle" }, xName));
  svg.append(element("text", { x: -up(0.5), y: 11, transform: "rotate(-90)", "text-anchor": "middle" }, yName));
}

// A point that is not defined (null) is a gap.
function path(xs, ys) {
  let text = "", isDown = false;
  xs.forEach((x, number) => {
    const y = ys[number];
    if (x === null || y === null) { isDown = false; return; }
    text += `${isDown ? "L" : "M"}${across(x).toFixed(2)} ${up(y).toFixed(2)}`;
    isDown = true;
  });
  return text;
}

function chart(title, xName, yName, lines, hasDiagonal) {
  const figure = document.createElement("figure");
  const heading = document.createElement("b");
  heading.textContent = title;
  const svg = element("svg", { viewBox: "0 0 340 300", role: "img", "aria-label": title });
  axes(svg, xName, yName);
  if (hasDiagonal) svg.append(element("path", { d: path([0, 1], [0, 1]), stroke: GREY, fill: "none" }));
  const legend = document.createElement("div");
  legend.className = "legend";
  for (const { name, xs, ys, colour, dots } of lines) {
    svg.append(element("path", { d: path(xs, ys), stroke: colour, fill: "none", "stroke-width": 2 }));
    if (dots) {
      xs.forEach((x, number) => x !== null && ys[number] !== null &&
        svg.append(element("circle", { cx: across(x), cy: up(ys[number]), r: 3, fill: colour })));
    }
    const entry = document.createElement("span"), swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.background = colour;
    entry.append(swatch, ` ${name}`);
    if (name) legend.append(entry);
  }
  figure.append(heading, document.createElement("br"), svg, legend);
  byId("charts").append(figure);
  return svg;
}

let rocPoint = null;

function drawCurves() {
  const { roc, pr, pixels, masks, images, calibration } = CURVES;
  const rocLine = { name: "one score per image", xs: roc.false_positive_rate, ys: roc.sensitivity, colour: BLUE };
  const svg = chart("ROC", "1 - specificity", "sensitivity", [rocLine], true);
  rocPoint = element("circle", { id: "roc-point", r: 5, fill: ORANGE, stroke: "#fff" });
  svg.append(rocPoint);
  const precision = [{ name: "images", xs: pr.recall, ys: pr.precision, colour: BLUE }];
  if (pixels) precision.push({ name: "pixels", xs: pixels.recall, ys: pixels.precision, colour: ORANGE });
  chart("Precision and recall", "recall", "precision", precision, false);
  const lines = [];
  if (masks) {
    lines.push({ name: "mean dice", xs: masks.threshold, ys: masks.dice_mean, colour: BLUE });
    lines.push({ name: "dice on positives", xs: masks.threshold, ys: masks.dice_positives, colour: ORANGE });
  }
  if (images) {
    lines.push({ name: "sensitivity of images", xs: images.threshold, ys: images.recall, colour: GREEN });
    lines.push({ name: "specificity of images", xs: images.threshold, ys: images.specificity, colour: VIOLET });
    lines.push({ name: "precision of images", xs: images.threshold, ys: images.precision, colour: GREY });
  }
  chart("At 31 thresholds", "threshold on p", "", lines, false);
  if (calibration) {
    const line = { name: images ? "images" : "pixels", xs: calibration.p, ys: calibration.share, colour: BLUE, dots: true };
    chart("Calibration", "p", "share with a lesion", [line], true);
  }
}

// The answers at the sliders' thresholds, in the ROC chart.
function movePoint({ sensitivity, specificity }) {
  const isDefined = Number.isFinite(sensitivity) && Number.isFinite(specificity);
  rocPoint.setAttribute("visibility", isDefined ? "visible" : "hidden");
  if (!isDefined) return;
  rocPoint.setAttribute("cx", across(1 - specificity));
  rocPoint.setAttribute("cy", up(sensitivity));
}

for (const name of ["truth", "predicted"]) {
  byId(`show-${name}`)?.addEventListener("change", (event) => {
    document.body.classList.toggle(name, event.target.checked);
  });
}

if (NUMBERS) {
  drawCurves();
  show("frozen", scoresAt(frozenThresholds()));
  for (const name of Object.keys(SLIDERS)) byId(`slider-${name}`).addEventListener("input", update);
  byId("reset").addEventListener("click", reset);
  update();
}
