// How the images are looked at: which outlines, window and level, and one image enlarged.

// ---- window and level, in grey levels of the 8-bit pictures

const WINDOW = { window: 256, level: 128 };  // as stored
const windowNow = { ...WINDOW };

function applyWindow() {
  const { window: width, level } = windowNow;
  const slope = 256 / width, intercept = 0.5 - (level / 256) * slope;
  for (const channel of document.querySelectorAll("#window-level feComponentTransfer > *")) {
    channel.setAttribute("slope", slope);
    channel.setAttribute("intercept", intercept);
  }
  for (const name of Object.keys(WINDOW)) {
    byId(name).value = windowNow[name];
    byId(`value-${name}`).textContent = windowNow[name];
  }
}

function setWindow(values) {
  for (const [name, value] of Object.entries(values)) {
    const { min, max } = byId(name);
    windowNow[name] = Math.min(Number(max), Math.max(Number(min), Math.round(value)));
  }
  applyWindow();
}

// Across changes the window, up and down the level, as in a viewer of radiology.
function dragWindow(area) {
  let start = null;
  area.addEventListener("pointerdown", (event) => {
    start = { x: event.clientX, y: event.clientY, ...windowNow };
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => {
    if (!start) return;
    const across = event.clientX - start.x, down = event.clientY - start.y;
    setWindow({ window: start.window + across, level: start.level + down / 2 });
  });
  for (const name of ["pointerup", "pointercancel"]) area.addEventListener(name, () => { start = null; });
  area.addEventListener("dblclick", () => setWindow(WINDOW));
}

// ---- outlines

const outlineNames = ["truth", "predicted"].filter((name) => byId(`show-${name}`));
const outlineButtons = [...document.querySelectorAll("[data-outline]")];

function showOutlines() {
  for (const name of outlineNames) {
    document.body.classList.toggle(`no-${name}`, !byId(`show-${name}`).checked);
  }
  for (const button of outlineButtons) {
    button.setAttribute("aria-pressed", byId(`show-${button.dataset.outline}`).checked);
  }
}

const toggleOutline = (name) => byId(`show-${name}`)?.click();

// ---- one image, enlarged

const viewer = byId("viewer");
let shownNumber = 0;

function showImage(number) {
  shownNumber = (number + pictures.length) % pictures.length;
  const figure = pictures[shownNumber].closest("figure");
  byId("viewer-picture").replaceChildren(figure.querySelector("svg").cloneNode(true));
  byId("viewer-title").textContent = figure.querySelector("b").title;
  const facts = [...figure.querySelectorAll("figcaption span")].map((span) => span.textContent);
  byId("viewer-facts").textContent = `${shownNumber + 1} of ${pictures.length}: ${facts.join(", ")}`;
}

function onViewerKey(event) {
  const outline = { t: "truth", p: "predicted" }[event.key.toLowerCase()];
  if (event.key === "ArrowLeft") showImage(shownNumber - 1);
  else if (event.key === "ArrowRight") showImage(shownNumber + 1);
  else if (outline) toggleOutline(outline);
  else return;
  event.preventDefault();
}

if (pictures.length) {
  pictures.forEach((picture, number) => picture.addEventListener("click", () => {
    showImage(number);
    viewer.showModal();
  }));
  byId("viewer-close").addEventListener("click", () => viewer.close());
  byId("viewer-previous").addEventListener("click", () => showImage(shownNumber - 1));
  byId("viewer-next").addEventListener("click", () => showImage(shownNumber + 1));
  viewer.addEventListener("keydown", onViewerKey);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  // The image that was shown last has the focus.
  viewer.addEventListener("close", () => pictures[shownNumber].focus());
  dragWindow(byId("viewer-picture"));
  for (const name of Object.keys(WINDOW)) {
    byId(name).addEventListener("input", (event) => setWindow({ [name]: Number(event.target.value) }));
  }
  byId("reset-window").addEventListener("click", () => setWindow(WINDOW));
  for (const name of outlineNames) byId(`show-${name}`).addEventListener("change", showOutlines);
  for (const button of outlineButtons) {
    button.addEventListener("click", () => toggleOutline(button.dataset.outline));
  }
  showOutlines();
  applyWindow();
}

// On a phone the controls wait, closed, at the lower edge.
const controls = document.querySelector(".controls");
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll(".remarks details")) details.open = true;
});
if (controls && matchMedia("(max-width: 999px)").matches) controls.open = false;
