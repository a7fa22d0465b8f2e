// The page: charts of all panels, which runs and which axis; and, live, what is new.

const LIVE = document.body.dataset.kind === "live";
const AXES = { step: "step", samples: "samples", seconds: "seconds in steps" };
const DASHES = ["", "dashed", "dotted"];
const NUM_COLOURS = 8;
const LOOK_MS = 1000;
const MOST_MS = 15000;

const state = { panels: [], runs: [], axis: "step", hidden: new Set() };
const charts = [];

// Bring a table up to date: what is given from `start` on takes the place of what was there.
function mergedTable(before, given) {
  if (!before || before.generation !== given.generation) return given;
  const columns = {};
  for (const [key, column] of Object.entries(given.columns)) {
    const old = before.columns[key];
    columns[key] = {};
    for (const part of ["mean", "low", "high", "bad"]) {
      if (!column[part] && !(old && old[part])) continue;
      const empty = part === "bad" ? 0 : null;
      const known = old && old[part] ? old[part].slice(0, given.start) : [];
      while (known.length < given.start) known.push(empty);
      columns[key][part] = known.concat(column[part] || column.mean.map(() => empty));
    }
  }
  return { ...given, columns };
}

function merge(update) {
  state.panels = update.panels;
  state.runs = update.runs.map((run, i) => {
    const old = state.runs[i] || {};
    return { ...run, steps: mergedTable(old.steps, run.steps), evaluations: mergedTable(old.evaluations, run.evaluations) };
  });
}

function seriesOf(panel) {
  const several = state.runs.length > 1;
  return state.runs.flatMap((run, r) => state.hidden.has(r) ? [] : panel.lines.map((line, l) => ({
    name: !several ? line.label : panel.lines.length > 1 ? `${run.name}, ${line.label}` : run.name,
    colour: (several ? r : l) % NUM_COLOURS,
    dash: several ? dashOf(l, r) : "",
    run: r,
    dots: line.table === "evaluations",
    points: pointsOf(run[line.table].columns, line.key, state.axis),
  })).filter((line) => line.points.length));
}

// What colours and dashes mean: with several runs colours are runs, and dashes the lines of a panel.
function keysOf(panel, series) {
  if (state.runs.length === 1) return series.length > 1 ? series.map((line) => [`c${line.colour}`, line.name]) : [];
  const shown = state.runs.map((run, r) => [run, r]).filter(([run, r]) => series.some((line) => line.run === r));
  const runs = shown.map(([run, r]) => [`c${r % NUM_COLOURS} ${dashOf(0, r)}`, run.name]);
  const several = panel.lines.length > 1;
  return [...runs, ...(several ? panel.lines.map((line, l) => [dashOf(l, 0), line.label]) : [])];
}

// A ninth run has the first one's colour, and another dash.
function dashOf(line, run) {
  return DASHES[(line + Math.floor(run / NUM_COLOURS)) % DASHES.length];
}

function marks() {
  return state.runs.flatMap((run, r) => state.hidden.has(r) ? [] : run.events.map(([step, kind, message, mark]) => ({
    x: placeOf(step, run.steps.columns, state.axis),
    kind: mark,
    text: `step ${plain(step)}, ${kind}: ${message}`,
  })).filter((mark) => mark.x !== null));
}

function moveCursor(x, chart) {
  for (const other of charts) other.cursorAt(x, chart);
}

function draw() {
  const place = document.getElementById("charts");
  while (charts.length < state.panels.length) {
    const chart = new Chart(charts.length, moveCursor);
    charts.push(chart);
    place.append(chart.element);
  }
  const happened = marks();
  const series = state.panels.map(seriesOf);
  const places = series.flatMap((lines) => lines.flatMap((line) => line.points.map((point) => point.x)));
  const axis = { title: AXES[state.axis], from: places.length ? lowest(places) : 0, to: places.length ? highest(places) : 1 };
  charts.forEach((chart, i) => {
    const panel = state.panels[i];
    chart.element.hidden = !panel;
    if (panel) chart.show(panel, series[i], keysOf(panel, series[i]), happened, axis);
  });
}

function controls() {
  const select = made("select", { id: "axis" });
  for (const [axis, title] of Object.entries(AXES)) select.append(made("option", { value: axis }, title));
  select.addEventListener("change", () => {
    state.axis = select.value;
    draw();
  });
  const row = made("div", { class: "controls" }, made("label", { for: "axis" }, "along "), select);
  if (state.runs.length > 1) state.runs.forEach((run, r) => row.append(runBox(run, r)));
  return row;
}

function runBox(run, r) {
  const box = made("input", { type: "checkbox", checked: "" });
  box.addEventListener("change", () => {
    if (box.checked) state.hidden.delete(r);
    else state.hidden.add(r);
    draw();
  });
  return made("label", {}, box, made("span", { class: `swatch c${r % NUM_COLOURS} ${dashOf(0, r)}`, "aria-hidden": "true" }), run.name);
}

// What changes beside the curves while a run goes on: there is one run then.
function retell() {
  const run = state.runs[0];
  const standing = document.querySelector(".standing");
  if (standing.textContent !== run.word) standing.textContent = run.word;
  standing.className = `standing ${run.ended ? "ended" : "open"}`;
  let bar = document.querySelector("header progress");
  if (run.total && !run.ended && !bar) {
    bar = made("progress", { "aria-label": "steps" });
    document.querySelector("header").append(bar);
  }
  if (bar && run.ended) bar.remove();
  if (bar && run.total) {
    bar.max = Math.max(1, run.total);
    bar.value = run.step;
  }
  const tiles = run.facts.map(([label, value]) => made("div", {}, made("dt", {}, label), made("dd", {}, value)));
  document.querySelector(".tiles").replaceChildren(...tiles);
  const rows = run.events.map(([step, kind, message, mark]) => {
    const sign = made("span", { class: `mark ${mark}`, "aria-hidden": "true" }, { trouble: "✖", arrival: "▲", note: "●" }[mark]);
    return made("tr", {}, made("td", {}, step.toLocaleString("en-US")), made("td", {}, sign, ` ${kind}`), made("td", {}, message));
  });
  const box = document.querySelector("#events .scrolls");
  box.hidden = !rows.length;
  box.querySelector("tbody").replaceChildren(...rows);
  const none = document.querySelector("#events .none");
  if (none) none.hidden = rows.length > 0;
}

function cursorsOf(run) {
  return [run.steps, run.evaluations].map((table) => {
    const known = table.columns.step ? table.columns.step.mean.length : 0;
    return `${table.generation}:${known}`;
  }).join(",");
}

function silence(seconds) {
  return seconds === null || seconds < 3 ? "" : `, last written ${inUnit(Math.round(seconds), "s")} ago`;
}

async function follow() {
  const pulse = made("p", { class: "pulse", role: "status" });
  document.querySelector(".standing").after(pulse);
  let wait = LOOK_MS, drawnUntil = "";
  for (;;) {
    await new Promise((resume) => setTimeout(resume, wait));
    // Nobody looks: nothing is asked for until somebody does.
    if (document.hidden) continue;
    let text;
    try {
      const answer = await fetch(`/data?known=${cursorsOf(state.runs[0])}`, { cache: "no-store", credentials: "same-origin" });
      if (!answer.ok) throw new Error(`the server said ${answer.status}`);
      merge(await answer.json());
      retell();
      const run = state.runs[0];
      // Drawing is most of the work, and a slow run has nothing new each second.
      const now = `${cursorsOf(run)} ${run.step} ${run.num_events}`;
      if (now !== drawnUntil) draw();
      drawnUntil = now;
      text = run.ended ? "" : `live${silence(run.silent_s)}`;
      wait = run.ended ? 5 * LOOK_MS : LOOK_MS;
    } catch (error) {
      text = `not connected (${error.message}): adamesh watch has ended, or is out of reach`;
      wait = Math.min(MOST_MS, 2 * wait);
    }
    if (pulse.textContent !== text) pulse.textContent = text;
    pulse.classList.toggle("lost", text.startsWith("not"));
  }
}

merge(JSON.parse(document.getElementById("data").textContent));
document.getElementById("curves").append(controls(), made("div", { id: "charts" }));
draw();
let lastWidth = document.documentElement.clientWidth;
new ResizeObserver(() => {
  if (document.documentElement.clientWidth === lastWidth) return;
  lastWidth = document.documentElement.clientWidth;
  for (const chart of charts) if (!chart.element.hidden) chart.draw();
}).observe(document.documentElement);
if (LIVE) follow();
