"use strict";
// kdbench report: sorting and filtering of the leaderboard, light and dark, and plots that follow them.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
const root = document.documentElement;

// ---- light and dark ----

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

one(".theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("kdbench-theme", root.dataset.theme); } catch { /* a private window forgets it */ }
  drawAll();
});
system.addEventListener("change", () => drawAll());

// ---- the leaderboard ----

const bodies = () => all("#board tbody");
const shownBody = () => bodies().find((body) => !body.hidden);
const methodsOf = (body) => [...body.rows].filter((row) => !row.classList.contains("divider"));
let grouped = true;

function sortBy(header, order) {
  const index = [...header.parentElement.children].indexOf(header);
  const sign = order === "ascending" ? 1 : -1;
  for (const other of header.parentElement.children) if (other !== header) other.ariaSort = "none";
  header.ariaSort = order;
  grouped = header.classList.contains("rank") && order === "ascending";
  for (const body of bodies()) {
    const keyed = methodsOf(body).map((row) => [row.children[index].dataset.order, row]);
    const filled = keyed.filter(([key]) => key !== undefined);
    const numeric = filled.every(([key]) => key !== "" && Number.isFinite(Number(key)));
    filled.sort(([a], [b]) => sign * (numeric ? a - b : a.localeCompare(b, "en")));
    const rows = [...filled, ...keyed.filter(([key]) => key === undefined)].map(([, row]) => row); // empty cells last
    const dividers = all("tr.divider", body);
    body.append(...(grouped && dividers.length
      ? dividers.flatMap((divider) => [divider, ...rows.filter((row) => row.dataset.sees === divider.dataset.sees)])
      : [...rows, ...dividers]));
  }
  divide();
}

/** Ranks are among methods that see as many teachers: they stand under a heading while the order is by rank. */
function divide() {
  for (const divider of all("#board tr.divider")) {
    const own = methodsOf(divider.parentElement).filter((row) => row.dataset.sees === divider.dataset.sees);
    divider.hidden = !grouped || own.every((row) => row.hidden);
  }
}

for (const button of all("#board thead button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const turned = { ascending: "descending", descending: "ascending" }[header.ariaSort];
    sortBy(header, turned ?? button.dataset.first);
  });
}

function filter() {
  const value = (id) => one(`#${id}`)?.value ?? "";
  const [family, fidelity, least] = [value("family"), value("fidelity"), Number(value("seeds"))];
  const sees = value("teachers");
  const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of bodies().flatMap(methodsOf)) {
    const { method, family: own, fidelity: held, seeds } = row.dataset;
    const text = `${method} ${own}`.toLowerCase();
    row.hidden = Boolean(family && own !== family) || Boolean(fidelity && held !== fidelity)
      || Boolean(sees && row.dataset.sees !== sees)
      || Number(seeds) < least || !words.every((word) => text.includes(word));
  }
  divide();
  const rows = methodsOf(shownBody());
  const kept = rows.filter((row) => !row.hidden).length;
  one("#count").textContent = kept === rows.length ? `${kept} methods` : `${kept} of ${rows.length} methods`;
}

const filters = one("#filters");
filters?.addEventListener("input", filter);
filters?.addEventListener("change", filter);
filters?.addEventListener("submit", (event) => event.preventDefault());

// ---- where: one choice for the whole page; plots of single pairs keep theirs while all pairs are shown ----

const board = { current: document.body.dataset.board };

function choose(key) {
  board.current = key;
  for (const part of [...bodies(), ...all(".told")]) part.hidden = part.dataset.board !== key;
  if (shownBody()) {
    one("#board").dataset.scope = shownBody().dataset.scope;
    for (const told of all(".compared")) told.textContent = shownBody().dataset.compared;
    if (one("#board-note")) one("#board-note").textContent = shownBody().dataset.note;
  }
  for (const select of all("select.where")) {
    if (all("option", select).some((option) => option.value === key)) select.value = key;
  }
  if (filters) filter();
  drawAll();
}
for (const select of all("select.where")) select.addEventListener("change", () => choose(select.value));

one("#over")?.addEventListener("change", ({ target }) => {
  for (const body of all("#aggregate tbody")) body.hidden = body.dataset.over !== target.value;
  one("#aggregate-note").textContent = one("#aggregate tbody:not([hidden])").dataset.note;
});

// ---- plots ----

const figures = {};
const loads = {};
window.kdbench = { add(key, plots) { figures[key] = plots; } };

/** The plots of a board; data files are scripts, because a page on a disk may read nothing else. */
function load(key) {
  if (figures[key]) return Promise.resolve(figures[key]);
  loads[key] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = () => resolve(figures[key]);
    script.onerror = () => reject(new Error(`data/${key}.js is missing`));
    script.src = `${root.dataset.root}data/${encodeURIComponent(key)}.js`;
    document.head.append(script);
  });
  return loads[key];
}

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** A figure with its `$name` colours looked up. */
function painted(value) {
  if (Array.isArray(value)) return value.map(painted);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, painted(inner)]));
  }
  return typeof value === "string" && /^\$[a-z]+\d?$/.test(value) ? colour(value.slice(1)) : value;
}

const PAPER = { width: 640, height: 380 };
let printing = null; // on paper: the theme to return to
const SERIES = 7;
const DASHES = [["solid", "solid"], ["dash", "dashed"], ["dot", "dotted"]];
const picked = all(".picker input:checked").map((box) => box.value);
for (const box of all(".picker input")) {
  box.addEventListener("change", () => {
    if (box.checked) picked.push(box.value);
    else picked.splice(picked.indexOf(box.value), 1);
    drawAll();
  });
}

/** The colour and dash of each shown method, on its chip and in the plots. */
function styles() {
  const found = new Map();
  picked.forEach((method, index) => {
    const [plot, border] = DASHES[Math.floor(index / SERIES) % DASHES.length];
    const name = `series${(index % SERIES) + 1}`;
    found.set(method, { color: colour(name), dash: plot });
    const chip = all(".picker input").find((box) => box.value === method);
    chip?.nextElementSibling.style.setProperty("--c", `var(--${name})`);
    chip?.nextElementSibling.style.setProperty("--dash", border);
  });
  return found;
}

function withPicked(data, chosen) {
  return data.filter((trace) => trace.meta === undefined || chosen.has(trace.meta)).map((trace) => {
    if (trace.meta === undefined) return trace;
    const style = chosen.get(trace.meta);
    const band = trace.fill === "toself";
    const fill = style.color.replace("rgb(", "rgba(").replace(")", ", 0.16)");
    const line = band ? { width: 0 } : { color: style.color, dash: style.dash, width: 2 };
    return { ...trace, line, marker: { ...trace.marker, color: style.color }, ...(band && { fillcolor: fill }) };
  });
}

function axes(layout) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, ticks: "outside", tickcolor: colour("line"), automargin: true };
  const titled = (own) => ({ ...axis, ...own, title: { standoff: 10, ...own.title } });
  return {
    ...layout,
    xaxis: titled(layout.xaxis),
    yaxis: titled(layout.yaxis),
    autosize: !printing,
    ...(printing && PAPER),
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("muted") },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") } },
  };
}

/** The board whose data a plot shows: the chosen one, or for plots of single pairs the last single pair chosen. */
function boardOf(area) {
  const section = area.closest("section");
  return section?.querySelector("select.where")?.value ?? board.current;
}

async function draw(area) {
  if (!window.Plotly) return;
  const key = boardOf(area);
  const figure = (await load(key))[area.dataset.kind];
  if (key !== boardOf(area)) return;
  if (!figure) {
    Plotly.purge(area);
    area.replaceChildren(Object.assign(document.createElement("p"), { className: "note", textContent: "Not measured here." }));
    return;
  }
  const known = new Set(figure.data.map((trace) => trace.meta));
  if (area.dataset.kind === "curves") for (const box of all(".picker input")) box.disabled = !known.has(box.value);
  if (!area.classList.contains("js-plotly-plot")) area.replaceChildren();
  const data = painted(withPicked(figure.data, styles()));
  await Plotly.react(area, data, axes(painted(figure.layout)), { displayModeBar: false, responsive: true });
  area.removeAllListeners("plotly_click");
  area.on("plotly_click", ({ points }) => {
    const slug = points[0].customdata;
    if (area.dataset.kind === "pareto" && slug) location.href = `${root.dataset.root}methods/${slug}.html`;
  });
}

function drawAll() {
  return Promise.all(all(".plot .area").map(draw)).catch((error) => console.error(error));
}

document.addEventListener("DOMContentLoaded", drawAll);

// ---- on paper: light, and as wide as a page ----

addEventListener("beforeprint", () => {
  printing ??= { theme: root.dataset.theme };
  root.dataset.theme = "light";
  drawAll();
});
addEventListener("afterprint", () => {
  root.dataset.theme = printing?.theme ?? "";
  printing = null;
  drawAll();
});
