// Outlines of the predictions at the sliders' thresholds, from maps of p (outlines.py).
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// The codes of a map, with one more pixel of code 0 around: {codes, width}.
async function decodeMap({ width, height, codes }) {
  const bytes = Uint8Array.from(atob(codes), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const differences = new Uint8Array(await new Response(stream).arrayBuffer());
  const padded = new Uint8Array((width + 2) * (height + 2));
  let code = 0;
  differences.forEach((difference, place) => {
    code = (code + difference) & 255;
    const row = Math.floor(place / width) + 1;
    padded[row * (width + 2) + (place % width) + 1] = code;
  });
  return { codes: padded, width: width + 2 };
}

// Marching squares. A square has four corners; by which of them are inside (8 upper left, 4 upper
// right, 2 lower right, 1 lower left) the outline goes from one of its sides to another, with the
// inside always on the same hand: 0 top, 1 right, 2 bottom, 3 left.
const CROSSINGS = [
  [], [[2, 3]], [[1, 2]], [[1, 3]], [[0, 1]], [[0, 1], [2, 3]], [[0, 2]], [[0, 3]],
  [[3, 0]], [[2, 0]], [[3, 0], [1, 2]], [[1, 0]], [[3, 1]], [[2, 1]], [[3, 2]], [],
];

// The outline of the codes above `code`, as an SVG path of a picture that is `scale` times as large.
function outlinePath({ codes, width }, code, scale) {
  const level = code + 0.5;
  const next = new Map();  // from a side to the side where the outline goes on
  const sideOf = (corner, side) =>
    [2 * corner, 2 * (corner + 1) + 1, 2 * (corner + width), 2 * corner + 1][side];
  for (let corner = 0; corner < codes.length - width; corner += 1) {
    if (corner % width === width - 1) continue;
    const inside = 8 * (codes[corner] > level) + 4 * (codes[corner + 1] > level)
      + 2 * (codes[corner + width + 1] > level) + (codes[corner + width] > level);
    for (const [from, to] of CROSSINGS[inside]) next.set(sideOf(corner, from), sideOf(corner, to));
  }
  // Where a side is crossed, between its two pixels; centres of pixels are at halves.
  const point = (side) => {
    const corner = side >> 1, isUpright = side & 1;
    const low = codes[corner], high = codes[corner + (isUpright ? width : 1)];
    const share = (level - low) / (high - low);
    const x = (corner % width) - 0.5 + (isUpright ? 0 : share);
    const y = Math.floor(corner / width) - 0.5 + (isUpright ? share : 0);
    return `${(x * scale).toFixed(1)} ${(y * scale).toFixed(1)}`;
  };
  const loops = [];
  for (const start of next.keys()) {
    const points = [];
    for (let side = start; next.has(side);) {
      points.push(point(side));
      const following = next.get(side);
      next.delete(side);
      side = following;
    }
    if (points.length) loops.push(`M${points.join("L")}Z`);
  }
  return loops.join("");
}

const pictures = [...document.querySelectorAll(".picture")];
const maps = pictures.map(() => null);  // decoded when they are first needed

// What the thresholds make of one figure, whose dice and area the page has for the source's size.
function maskAt(figure, { lesion, top, area, bottom }) {
  const areas = DATA.grid.sliders.area.values.length;
  const isKept = figure.passes[lesion] === "1" && figure.kept[top * areas + area] === "1";
  const dice = isKept ? figure.dice[bottom] : figure.dice_emptied;
  return { isKept, dice, share: isKept ? figure.shares[bottom] : 0 };
}

// At the frozen thresholds the outline is that of the mask itself, which came with the page.
async function redrawFigure(picture, number, positions, isFrozen) {
  const figure = DATA.figures[number];
  if (!figure || !DATA.grid) return;
  const mask = maskAt(figure, positions);
  const facts = picture.closest("figure").querySelector(".moved");
  facts.dataset.frozen ??= facts.textContent;
  const area = `prediction ${(100 * mask.share).toFixed(2)}% of the image`;
  const text = `dice ${shareText(mask.dice, 3)}, truth ${(100 * figure.truth).toFixed(2)}%, ${area}`;
  facts.textContent = isFrozen ? facts.dataset.frozen : text;
  const paths = picture.querySelectorAll(".predicted path");
  for (const path of paths) path.dataset.frozen ??= path.getAttribute("d");
  let outline = isFrozen ? paths[0].dataset.frozen : "";
  if (!isFrozen && mask.isKept) {
    maps[number] ??= await decodeMap(figure.map);
    const threshold = DATA.grid.sliders.bottom.values[positions.bottom];
    const width = picture.querySelector("svg").viewBox.baseVal.width;
    outline = outlinePath(maps[number], Math.round(threshold * DATA.steps), width / figure.map.width);
  }
  for (const path of paths) path.setAttribute("d", outline);
}

async function redraw(positions, isFrozen) {
  await Promise.all(pictures.map((one, number) => redrawFigure(one, number, positions, isFrozen)));
}
