// The table of all images: sorted by a column, filtered, drawn in parts, and taken as a CSV. The CSV
// has all columns, the table those that are shown.

const CHUNK_ROWS = 100;
const numRows = DATA.columns[0].values.length;
const columns = DATA.columns.map(({ values, ...column }) => ({  // nothing is known: no values
  ...column, values: Array.from({ length: numRows }, (_, row) =>
    (column.is_number && values[row] === "inf" ? Infinity : values[row] ?? null)),
}));
const shownColumns = columns.flatMap(({ is_shown }, number) => (is_shown ? [number] : []));
const DECIMALS = 3;  // of columns that are not whole numbers; the CSV has all that there are
const isWhole = columns.map(({ values }) =>
  values.every((value) => !Number.isFinite(value) || Number.isInteger(value)));
const imageTable = byId("image-table");
let order = columns[0].values.map((_, row) => row);
let sorting = { column: 0, isDescending: false };
let shownRows = CHUNK_ROWS;

function isBefore(a, b, isDescending) {
  if (a === null || a === "") return b === null || b === "" ? 0 : 1;  // unknown ones last, either way
  if (b === null || b === "") return -1;
  const sign = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return isDescending ? -sign : sign;
}

function matchingRows() {
  const words = byId("filter").value.trim().toLowerCase();
  if (!words) return order;
  return order.filter((row) => shownColumns.some((number) =>
    String(columns[number].values[row] ?? "").toLowerCase().includes(words)));
}

function cellOf(number, row) {
  const column = columns[number], cell = document.createElement("td"), value = column.values[row];
  if (value === null || value === Infinity) cell.textContent = value === null ? "-" : "infinite";
  else cell.textContent = column.is_number && !isWhole[number] ? shareText(value, DECIMALS) : value;
  if (column.is_number) cell.className = "number";
  return cell;
}

function drawTable() {
  const rows = matchingRows(), drawn = rows.slice(0, shownRows);
  imageTable.tBodies[0].replaceChildren(...drawn.map((row) => {
    const line = document.createElement("tr");
    line.append(...shownColumns.map((number) => cellOf(number, row)));
    return line;
  }));
  const isAll = drawn.length === rows.length;
  byId("row-count").textContent = `${drawn.length} of ${rows.length} images shown`;
  byId("more-rows").hidden = isAll;
}

function sortBy(column) {
  const isDescending = sorting.column === column && !sorting.isDescending;
  sorting = { column, isDescending };
  const { values } = columns[column];
  order = values.map((_, row) => row);
  order.sort((a, b) => isBefore(values[a], values[b], isDescending) || a - b);
  imageTable.querySelectorAll("th").forEach((cell, place) => {
    if (shownColumns[place] === column) cell.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  shownRows = CHUNK_ROWS;
  drawTable();
}

// A text that a spreadsheet would take for a formula gets an apostrophe, as OWASP advises.
function csvField(value) {
  if (value === null) return "";
  if (typeof value === "number") return value === Infinity ? "inf" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvText() {
  const lines = matchingRows().map((row) => columns.map(({ values }) => csvField(values[row])).join(","));
  return [columns.map(({ name }) => name).join(","), ...lines].map((line) => `${line}\r\n`).join("");
}

function takeCsv() {
  const url = URL.createObjectURL(new Blob([csvText()], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = "images.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

imageTable.tHead.addEventListener("click", (event) => {
  const { column } = event.target.dataset;
  if (column !== undefined) sortBy(Number(column));
});
byId("filter").addEventListener("input", () => {
  shownRows = CHUNK_ROWS;
  drawTable();
});
byId("more-rows").addEventListener("click", () => {
  shownRows += CHUNK_ROWS;
  drawTable();
});
byId("take-csv").addEventListener("click", takeCsv);
drawTable();
