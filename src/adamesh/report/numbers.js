"use strict";
// Numbers for people, and the marks of an axis.

function plain(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(4)));
}

function inUnit(value, unit) {
  if (value === null || value === undefined) return "not finite";
  const size = Math.abs(value);
  if (unit === "B") {
    const power = size >= 1e9 ? 3 : size >= 1e6 ? 2 : size >= 1e3 ? 1 : 0;
    return `${plain(value / 1000 ** power)} ${["B", "kB", "MB", "GB"][power]}`;
  }
  if (unit === "s") {
    if (size >= 7200) return `${plain(value / 3600)} h`;
    return size >= 1 || size === 0 ? `${plain(value)} s` : size >= 1e-3 ? `${plain(value * 1e3)} ms` : `${plain(value * 1e6)} µs`;
  }
  return plain(value);
}

const lowest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const highest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

// 1, 2 or 5 times a power of ten, about `count` of them between two ends.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  const decades = Math.log10(high / low);
  const factors = decades <= 1.5 ? [1, 2, 5] : decades <= 3 ? [1, 3] : [1];
  const every = Math.ceil(decades / 6);
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    if (power % every) continue;
    for (const factor of factors) {
      const tick = factor * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
    }
  }
  return found.length > 1 ? found : [low, high];
}
