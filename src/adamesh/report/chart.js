// One chart: lines with envelopes, events as marks, a cursor for mouse, finger and keyboard, and the same as a table.

const SVG = "http://www.w3.org/2000/svg";
const ROOM = { left: 58, right: 14, top: 22, bottom: 30 };
const HEIGHT = 236;
const MOST_ROWS = 40;
const SCALES = ["linear", "log", "without outliers"];
// Outliers are what lies so far above so large a share of the values.
const OUTLIERS = { share: 0.98, factor: 3 };

// Every text goes in as text, so that no name can be markup.
function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function drawn(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// A run's line as points: where it is, its mean, what its bin's extremes were, how many values were not finite.
function pointsOf(columns, key, axis) {
  const column = columns[key];
  if (!column) return [];
  const points = [];
  for (let i = 0; i < column.mean.length; i++) {
    const bad = column.bad ? column.bad[i] || 0 : 0;
    const y = column.mean[i];
    if (y === null && !bad) continue;
    const x = columns[axis] ? columns[axis].mean[i] : columns.step.mean[i];
    if (x === null) continue;
    const steps = columns.step;
    points.push({
      x, y, bad,
      low: column.low && y !== null ? column.low[i] : y,
      high: column.high && y !== null ? column.high[i] : y,
      first: steps.low ? steps.low[i] : steps.mean[i],
      last: steps.high ? steps.high[i] : steps.mean[i],
    });
  }
  return points;
}

// Where a step lies on another axis.
function placeOf(step, columns, axis) {
  if (axis === "step" || !columns.step || !columns[axis]) return step;
  const steps = columns.step.mean;
  let i = steps.findIndex((other) => other >= step);
  if (i < 0) i = steps.length - 1;
  return i < 0 ? null : columns[axis].mean[i];
}

function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].x < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - points[low - 1].x < points[low].x - x ? points[low - 1] : points[low];
}

class Chart {
  // `onCursor(x)` is called where the reader points, so that all charts show the same place.
  constructor(number, onCursor) {
    this.id = `chart-${number}`;
    this.onCursor = onCursor;
    this.scale = null; // one of SCALES; null: what suits the numbers
    this.title = made("h3", { id: `${this.id}-title` });
    this.note = made("p", { class: "note" });
    this.button = made("button", { type: "button", class: "scale" });
    this.button.addEventListener("click", () => {
      this.scale = SCALES[(SCALES.indexOf(this.scaleShown) + 1) % SCALES.length];
      this.draw();
    });
    this.svg = drawn("svg", { role: "img", tabindex: "0", "aria-labelledby": `${this.id}-title ${this.id}-text` });
    this.tip = made("div", { class: "tip", role: "status", hidden: "" });
    this.legend = made("ul", { class: "legend" });
    this.details = made("details", {}, made("summary", {}, "Values as a table"));
    this.details.addEventListener("toggle", () => this.fillTable());
    const head = made("figcaption", {}, made("div", {}, this.title, this.note), this.button);
    this.element = made("figure", { class: "chart" }, head, made("div", { class: "plot" }, this.svg, this.tip), this.legend, this.details);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => onCursor(null, null));
    this.svg.addEventListener("blur", () => onCursor(null, null));
    this.svg.addEventListener("keydown", (event) => this.walk(event));
  }

  // series: {name, colour, dash, dots, points}; keys: [swatch's classes, text]; marks: {x, kind, text};
  // axis: {title, from, to}, the same for all charts
  show(panel, series, keys, marks, axis) {
    Object.assign(this, { panel, series, keys, marks, axis });
    this.title.textContent = panel.title;
    this.note.textContent = panel.note;
    this.draw();
    this.fillTable();
  }

  draw() {
    const width = Math.max(240, this.svg.parentElement.clientWidth);
    this.width = width;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", HEIGHT);
    this.svg.replaceChildren(drawn("desc", { id: `${this.id}-text` }, this.inWords()));
    this.cursor = null;
    this.measure();
    this.drawAxes();
    this.drawMarks();
    for (const line of this.series) this.drawLine(line);
    this.fillLegend();
  }

  measure() {
    const all = this.series.flatMap((line) => line.points);
    const finite = all.filter((point) => point.y !== null);
    const highs = finite.map((point) => point.high).sort((a, b) => a - b);
    let low = finite.length ? lowest(finite.map((point) => point.low)) : 0;
    let high = finite.length ? highs[highs.length - 1] : 1;
    const usual = OUTLIERS.factor * (highs[Math.floor(OUTLIERS.share * (highs.length - 1))] || 0);
    const suitsLog = !this.panel.from_zero && low > 0 && high / low >= 100;
    const suitsCut = this.panel.from_zero && usual > 0 && high > usual;
    this.scaleShown = this.scale || (suitsLog ? "log" : suitsCut ? "without outliers" : "linear");
    this.isLog = this.scaleShown === "log";
    this.ceiling = this.scaleShown === "without outliers" && usual > 0 && high > usual ? usual : Infinity;
    high = Math.min(high, this.ceiling);
    if (this.isLog) {
      low = lowest(finite.map((point) => point.low).filter((value) => value > 0));
      if (!Number.isFinite(low) || high <= 0) [low, high] = [0.1, 1];
      if (low === high) [low, high] = [low / 2, high * 2];
      [low, high] = [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
    } else {
      if (this.panel.from_zero && low > 0) low = 0;
      if (low === high) [low, high] = low ? [low - Math.abs(low) / 2, high + Math.abs(high) / 2] : [0, 1];
      const air = (high - low) * 0.05;
      high += air;
      if (low !== 0) low -= air;
    }
    this.button.textContent = this.scaleShown === "without outliers" ? "without outliers" : `${this.scaleShown} scale`;
    this.button.setAttribute("aria-label", `${this.panel.title}: ${this.button.textContent}; press to change`);
    this.ys = [low, high];
    const { from, to } = this.axis;
    this.xs = from === to ? [from - 0.5, to + 0.5] : [from, to];
  }

  px(x) {
    return ROOM.left + ((x - this.xs[0]) / (this.xs[1] - this.xs[0])) * (this.width - ROOM.left - ROOM.right);
  }

  py(y) {
    const [low, high] = this.isLog ? this.ys.map(Math.log) : this.ys;
    const share = ((this.isLog ? Math.log(y) : Math.min(y, this.ys[1])) - low) / (high - low);
    return HEIGHT - ROOM.bottom - share * (HEIGHT - ROOM.top - ROOM.bottom);
  }

  drawAxes() {
    const bottom = HEIGHT - ROOM.bottom;
    const rows = this.isLog ? logTicks(...this.ys) : ticks(...this.ys, 5);
    for (const tick of rows) {
      const y = this.py(tick);
      this.svg.append(drawn("line", { class: "grid", x1: ROOM.left, x2: this.width - ROOM.right, y1: y, y2: y }));
      this.svg.append(drawn("text", { class: "tick", x: ROOM.left - 8, y: y + 4, "text-anchor": "end" }, inUnit(tick, this.panel.unit)));
    }
    for (const tick of ticks(...this.xs, this.width / 110)) {
      const x = this.px(tick);
      if (x < ROOM.left - 1 || x > this.width - ROOM.right + 1) continue;
      this.svg.append(drawn("line", { class: "grid x", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      const anchor = x > this.width - 32 ? "end" : "middle";
      this.svg.append(drawn("text", { class: "tick", x: anchor === "end" ? x + 8 : x, y: bottom + 17, "text-anchor": anchor }, plain(tick)));
    }
    this.svg.append(drawn("line", { class: "axis", x1: ROOM.left, x2: this.width - ROOM.right, y1: bottom, y2: bottom }));
    this.svg.append(drawn("text", { class: "tick", x: this.width - ROOM.right, y: HEIGHT - 2, "text-anchor": "end" }, this.axis.title));
  }

  drawMarks() {
    const taken = new Set();
    for (const mark of this.marks) {
      const x = Math.round(this.px(mark.x));
      // Several on one spot: the list of events has them all.
      if (taken.has(`${x} ${mark.kind}`) || x < ROOM.left - 1 || x > this.width - ROOM.right + 1) continue;
      taken.add(`${x} ${mark.kind}`);
      const group = drawn("g", { class: `event ${mark.kind}` });
      const bottom = HEIGHT - ROOM.bottom;
      group.append(drawn("title", {}, mark.text), drawn("line", { x1: x, x2: x, y1: ROOM.top - 6, y2: bottom }));
      const sign = { trouble: "✖", arrival: "▲", note: "●" }[mark.kind];
      // Whoever is lost is often replaced at once: the two signs stand side by side.
      const aside = { trouble: -5, arrival: 5, note: 0 }[mark.kind];
      group.append(drawn("text", { x: x + aside, y: ROOM.top - 9, "text-anchor": "middle" }, sign));
      this.svg.append(group);
    }
  }

  drawLine(line) {
    const usable = (point) => point.y !== null && (!this.isLog || point.low > 0);
    const spot = (point, y) => `${this.px(point.x).toFixed(1)},${this.py(y).toFixed(1)}`;
    let stretch = [];
    const stretches = [];
    for (const point of [...line.points, { y: null }]) {
      if (usable(point)) stretch.push(point);
      else if (stretch.length) stretches.push(stretch), (stretch = []);
    }
    for (const points of stretches) {
      if (points.some((point) => point.low < point.high)) {
        const edge = [...points.map((p) => spot(p, p.high)), ...[...points].reverse().map((p) => spot(p, p.low))];
        this.svg.append(drawn("polygon", { class: `band c${line.colour}`, points: edge.join(" ") }));
      }
      this.svg.append(drawn("polyline", { class: `line c${line.colour} ${line.dash}`, points: points.map((p) => spot(p, p.y)).join(" ") }));
      const few = line.dots && points.length <= this.width / 14;
      for (const point of few || points.length === 1 ? points : []) {
        const [cx, cy] = spot(point, point.y).split(",");
        this.svg.append(drawn("circle", { class: `dot c${line.colour}`, cx, cy, r: 2.6 }));
      }
    }
    for (const point of line.points) {
      if (point.bad) this.sign("bad", "×", point, `${line.name}: not finite at ${this.stepsOf(point)}`);
      if (point.y !== null && point.high > this.ceiling)
        this.sign(`beyond c${line.colour}`, "▴", point, `${line.name}: ${this.valueOf(point)} at ${this.stepsOf(point)}`);
    }
  }

  sign(kind, character, point, words) {
    const text = drawn("text", { class: kind, x: this.px(point.x), y: ROOM.top + 8, "text-anchor": "middle" }, character);
    text.append(drawn("title", {}, words));
    this.svg.append(text);
  }

  fillLegend() {
    const items = this.keys.map(([swatch, text]) => made("li", {}, made("span", { class: `swatch ${swatch}`, "aria-hidden": "true" }), text));
    if (this.ceiling < Infinity)
      items.push(made("li", { class: "faint" }, `▴ above the scale, up to ${inUnit(highest(this.series.flatMap((line) => line.points.map((p) => p.high))), this.panel.unit)}`));
    if (this.series.some((line) => line.points.some((point) => point.low < point.high)))
      items.push(made("li", { class: "faint" }, "shaded: lowest to highest"));
    if (this.series.some((line) => line.points.some((point) => point.bad)))
      items.push(made("li", {}, made("span", { class: "bad", "aria-hidden": "true" }, "×"), " not finite"));
    this.legend.replaceChildren(...items);
    this.legend.hidden = !items.length;
  }

  stepsOf(point) {
    return point.first === point.last ? `step ${plain(point.first)}` : `steps ${plain(point.first)} to ${plain(point.last)}`;
  }

  valueOf(point) {
    const unit = this.panel.unit;
    const range = point.low < point.high ? ` (${inUnit(point.low, unit)} to ${inUnit(point.high, unit)})` : "";
    return `${inUnit(point.y, unit)}${range}`;
  }

  inWords() {
    const parts = this.series.filter((line) => line.points.length).map((line) => {
      const first = line.points[0], last = line.points[line.points.length - 1];
      return `${line.name}: from ${this.valueOf(first)} at ${this.stepsOf(first)} to ${this.valueOf(last)} at ${this.stepsOf(last)}.`;
    });
    return `${parts.join(" ")} ${this.marks.length} events. Arrow keys walk along the curve.`;
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) * (this.width / box.width) - ROOM.left) / (this.width - ROOM.left - ROOM.right);
    this.onCursor(this.xs[0] + Math.min(1, Math.max(0, share)) * (this.xs[1] - this.xs[0]), this);
  }

  walk(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const points = this.series.length ? this.series[0].points : [];
    if (by === undefined || !points.length) return;
    event.preventDefault();
    const now = this.at === null || this.at === undefined ? (by > 0 ? -1 : points.length) : points.indexOf(nearest(points, this.at));
    this.onCursor(points[Math.min(points.length - 1, Math.max(0, now + by))].x, this);
  }

  // The line at x on every chart, the numbers on the one that the reader is at.
  cursorAt(x, chart) {
    this.at = x;
    if (this.cursor) this.cursor.remove();
    this.cursor = null;
    this.tip.hidden = chart !== this || x === null;
    if (x === null || x < this.xs[0] || x > this.xs[1]) return;
    this.cursor = drawn("g", { class: "cursor" });
    this.cursor.append(drawn("line", { x1: this.px(x), x2: this.px(x), y1: ROOM.top - 6, y2: HEIGHT - ROOM.bottom }));
    const found = this.series.filter((line) => line.points.length).map((line) => [line, nearest(line.points, x)]);
    for (const [line, point] of found)
      if (point.y !== null && (!this.isLog || point.y > 0))
        this.cursor.append(drawn("circle", { class: `dot c${line.colour}`, cx: this.px(point.x), cy: this.py(point.y), r: 3.6 }));
    this.svg.append(this.cursor);
    if (chart !== this || !found.length) return;
    const rows = found.map(([line, point]) =>
      made("li", {}, made("span", { class: `swatch c${line.colour} ${line.dash}`, "aria-hidden": "true" }),
        this.series.length > 1 ? `${line.name} ` : "", made("strong", {}, this.valueOf(point))));
    this.tip.replaceChildren(made("p", {}, this.stepsOf(found[0][1])), made("ul", {}, ...rows));
    const right = this.px(x) > this.width / 2;
    this.tip.style.left = right ? "auto" : `${this.px(x) + 12}px`;
    this.tip.style.right = right ? `${this.width - this.px(x) + 12}px` : "auto";
  }

  fillTable() {
    if (!this.details.open) return;
    const heads = ["", "steps", "mean", "lowest", "highest"].map((text) => made("th", { scope: "col" }, text));
    const rows = this.series.flatMap((line) => {
      const group = Math.ceil(line.points.length / MOST_ROWS);
      const found = [];
      for (let i = 0; i < line.points.length; i += group) found.push(this.rowOf(line, line.points.slice(i, i + group)));
      return found;
    });
    const table = made("table", {}, made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...rows));
    const box = made("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": `${this.panel.title}, values` }, table);
    this.details.replaceChildren(this.details.firstElementChild, box);
  }

  rowOf(line, points) {
    const finite = points.filter((point) => point.y !== null);
    const mean = finite.length ? finite.reduce((sum, point) => sum + point.y, 0) / finite.length : null;
    const low = finite.length ? lowest(finite.map((point) => point.low)) : null;
    const high = finite.length ? highest(finite.map((point) => point.high)) : null;
    const where = this.stepsOf({ first: points[0].first, last: points[points.length - 1].last });
    const cells = [mean, low, high].map((value) => made("td", { class: "number" }, inUnit(value, this.panel.unit)));
    return made("tr", {}, made("th", { scope: "row" }, line.name), made("td", {}, where), ...cells);
  }
}
