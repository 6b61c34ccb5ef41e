"use strict";
// Tables: a click on a column's name sorts by it, another click the other way round.
const MISSING = "–";
const ORDER = new Intl.Collator(undefined, { numeric: true });

function compare(one, other) {
  const [a, b] = [parseFloat(one), parseFloat(other)];
  if (!Number.isNaN(a) && !Number.isNaN(b) && a !== b) return a - b;
  return ORDER.compare(one, other);
}

function sort(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = (row) => row.cells[head.cellIndex].textContent.trim();
  const body = table.tBodies[0];
  // Lines between rows stand for the order they came in, and averages belong below what they sum up.
  for (const row of body.rows) row.classList.remove("rule");
  const summaries = [...body.querySelectorAll(".summary")];
  summaries[0]?.classList.add("rule");
  const rows = [...body.querySelectorAll("tr:not(.summary)")].sort((one, other) => {
    const [a, b] = [text(one), text(other)];
    // What is missing comes last in either direction.
    if (a === MISSING || b === MISSING) return (a === MISSING) - (b === MISSING);
    return down ? compare(b, a) : compare(a, b);
  });
  body.append(...rows, ...summaries);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button));
}

// Figures: drawn when they come near the window, all of them before printing.
const CONFIG = { displaylogo: false, displayModeBar: false, responsive: true };
const figures = [...document.querySelectorAll(".figure")];
const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

// The page's own colours for text, and for what lies behind a label.
function colours(layout) {
  const found = { "font.color": colour("--text") };
  (layout.annotations || []).forEach((label, place) => {
    if (label.bgcolor) found[`annotations[${place}].bgcolor`] = colour("--behind");
  });
  return found;
}

function draw(div) {
  if (div.dataset.drawn) return;
  div.dataset.drawn = "yes";
  const figure = JSON.parse(document.getElementById(div.dataset.json).textContent);
  Plotly.newPlot(div, figure.data, figure.layout, CONFIG);
  Plotly.relayout(div, colours(figure.layout));
}

function recolour() {
  for (const div of figures) {
    if (div.dataset.drawn) Plotly.relayout(div, colours(div.layout));
  }
}

if (figures.length) {
  const near = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
    { rootMargin: "800px" },
  );
  figures.forEach((div) => near.observe(div));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  addEventListener("beforeprint", () => figures.forEach(draw));
}
