"use strict";
// Draws the View that `html.py` put into the page. A bar is
// [kind, pipeline, stage, micro-batch, slice, unit, start, end, source, line, chunk].
const [KIND, PIPELINE, STAGE, MICROBATCH, SLICE, UNIT, START, END, SOURCE, LINE, CHUNK] =
  Array(11).keys();
const plan = JSON.parse(document.getElementById("plan").textContent);
const canvas = document.querySelector("canvas"), chart = document.getElementById("chart");
const tip = document.getElementById("tip"), pen = canvas.getContext("2d");
const LEFT = 74, RIGHT = 54, TOP = 14, AXIS = 30;
let LANE, CURVE, GAP, pitch;  // heights of a lane, its memory curve, the space below, all three
const end = Math.max(1, plan.makespan), peak = Math.max(1, ...plan.peaks, ...plan.limits);

let from = 0, to = end;      // the stretch of time that is shown, in ticks
let hover = null, kept = null, line = null;

function size(grains) { return fraction(grains, plan.size); }
function time(ticks) { return fraction(ticks, plan.time); }
function fraction(n, unit) {
  let a = n, b = unit;
  while (b) [a, b] = [b, a % b];
  return unit / a === 1 ? String(n / a) : `${n / a}/${unit / a}`;
}
function nameOf(bar) {
  const slice = bar[SLICE] < 0 ? "" : `, slice ${bar[SLICE]}`;
  return `${bar[KIND]} ${plan.pipelines[bar[PIPELINE]]}[${bar[STAGE]}, ${bar[MICROBATCH]}${slice}]`;
}
function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name); }

// ------------------------------------------------------------------ drawing

let queued = false;
function redraw() {
  if (!queued) requestAnimationFrame(() => { queued = false; draw(); });
  queued = true;
}

function x(tick) { return LEFT + (tick - from) * (canvas.clientWidth - LEFT - RIGHT) / (to - from); }
function tickAt(px) { return from + (px - LEFT) * (to - from) / (canvas.clientWidth - LEFT - RIGHT); }

function layout() {  // lanes fill the height; very many are thin and have no memory curves
  const room = (chart.clientHeight - TOP - AXIS) / plan.lanes.length;
  LANE = plan.lanes.length > 64 ? 12 : Math.round(Math.min(44, Math.max(28, 0.5 * room)));
  CURVE = plan.lanes.length > 64 ? 0 : Math.round(0.6 * LANE);
  GAP = plan.lanes.length > 64 ? 4 : 12;
  pitch = LANE + CURVE + GAP;
}

function draw() {
  layout();
  const width = chart.clientWidth, height = TOP + plan.lanes.length * pitch + AXIS;
  const dots = Math.min(window.devicePixelRatio || 1, 16000 / Math.max(width, height));
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  canvas.width = width * dots;
  canvas.height = height * dots;
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  const look = { ink: css("--ink"), dim: css("--dim"), soft: css("--soft"), line: css("--line"),
    card: css("--card"), held: css("--held"), edge: css("--edge"), limit: css("--limit") };
  pen.textBaseline = "middle";
  axis(look, width, height);
  for (let rank = 0; rank < plan.lanes.length; rank++) {
    const top = TOP + rank * pitch;
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = look.ink;
    pen.textAlign = "left";
    pen.fillText(`rank ${rank}`, 14, top + LANE / 2);
    pen.textAlign = "right";
    pen.fillStyle = look.dim;
    pen.fillText(size(plan.peaks[rank]), width - 14, top + LANE / 2);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, width - LEFT - RIGHT, height);
    pen.clip();
    pen.fillStyle = look.soft;
    pen.fillRect(x(0), top, x(end) - x(0), LANE);
    for (const bar of shown(plan.lanes[rank])) drawBar(bar, top, look);
    if (CURVE) drawCurve(rank, top + LANE + 3, look);
    pen.restore();
  }
}

function axis(look, width, height) {
  let step = plan.time;
  for (let i = 0; x(step) - x(0) < 56; i++) step *= [2, 2.5, 2][i % 3];
  pen.strokeStyle = look.line;
  pen.fillStyle = look.dim;
  pen.font = "10px system-ui, sans-serif";
  pen.textAlign = "center";
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) {
    pen.beginPath();
    pen.moveTo(x(tick), TOP - 4);
    pen.lineTo(x(tick), height - AXIS + 4);
    pen.stroke();
    pen.fillText(time(tick), x(tick), height - AXIS / 2);
  }
}

function* shown(lane) {  // the bars of a lane that the window shows, found by bisection
  let low = 0, high = lane.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lane[middle][END] < from) low = middle + 1; else high = middle;
  }
  for (let i = low; i < lane.length && lane[i][START] <= to; i++) yield lane[i];
}

function lit(bar) {
  const bright = kept || hover;
  if (line) return bar[SOURCE] === line[0] && bar[LINE] === line[1];
  return !bright || bar[PIPELINE] === bright[PIPELINE] && bar[MICROBATCH] === bright[MICROBATCH];
}

function box(bar, top) {
  const half = bar[UNIT] >= 0;
  const height = half ? LANE / 2 : LANE;
  return [x(bar[START]), top + (half && bar[KIND] !== "F" ? height : 0),
    x(bar[END]) - x(bar[START]), height];
}

function drawBar(bar, top, look) {
  const [left, y, width, height] = box(bar, top);
  const [paint, ink] = plan.colours[`${bar[KIND]}${bar[PIPELINE]}-${bar[CHUNK]}`];
  pen.globalAlpha = lit(bar) ? 1 : 0.22;
  pen.fillStyle = paint;
  const gap = width > 3 ? 0.8 : 0;
  pen.beginPath();
  pen.roundRect(left, y, Math.max(width - gap, 0.5), height - (height < LANE ? 0.8 : 0), gap && 2);
  pen.fill();
  const words = bar[SLICE] < 0 ? `${bar[MICROBATCH]}` : `${bar[MICROBATCH]}.${bar[SLICE]}`;
  if (height > 8 && width > 6 * words.length + 3) {
    pen.fillStyle = ink;
    pen.font = "10.5px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText(words, left + width / 2, y + height / 2 + 0.5);
  }
  if (bar === (kept || hover)) {
    pen.strokeStyle = look.ink;
    pen.lineWidth = 2;
    pen.stroke();
    pen.lineWidth = 1;
  }
  pen.globalAlpha = 1;
}

function drawCurve(rank, top, look) {
  const y = (grains) => top + CURVE * (1 - grains / peak);
  pen.beginPath();
  let held = 0;
  pen.moveTo(x(0), y(0));
  for (const [tick, grains] of plan.memory[rank]) {
    pen.lineTo(x(tick), y(held));
    pen.lineTo(x(tick), y(held = grains));
  }
  pen.lineTo(x(end), y(held));
  pen.lineTo(x(end), y(0));
  pen.fillStyle = look.held;
  pen.strokeStyle = look.edge;
  pen.fill();
  pen.stroke();
  if (plan.limits[rank] !== undefined && plan.limits[rank] >= 0) {
    pen.strokeStyle = look.limit;
    pen.setLineDash([4, 3]);
    pen.beginPath();
    pen.moveTo(x(0), y(plan.limits[rank]));
    pen.lineTo(x(end), y(plan.limits[rank]));
    pen.stroke();
    pen.setLineDash([]);
  }
}

// ------------------------------------------------------------------ looking

function barAt(px, py) {
  const rank = Math.floor((py - TOP) / pitch);
  if (!plan.lanes[rank] || px < LEFT || px > canvas.clientWidth - RIGHT) return null;
  let found = null;
  for (const bar of shown(plan.lanes[rank])) {
    const [left, y, width, height] = box(bar, TOP + rank * pitch);
    if (px >= left && px < left + width && py >= y && py < y + height) found = bar;
  }
  return found;
}

function idleAt(rank, tick) {  // why the rank is idle then
  let low = 0, high = plan.idle[rank].length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (plan.idle[rank][middle][1] <= tick) low = middle + 1; else high = middle;
  }
  const found = plan.idle[rank][low];
  if (!found || found[0] > tick) return "idle";
  return `idle ${time(found[0])} to ${time(found[1])}\n${found[2].replaceAll("`", "")}`;
}

function heldAt(rank, tick) {
  let held = 0;
  for (const [at, grains] of plan.memory[rank]) if (at <= tick) held = grains;
  return held;
}

function say(event) {
  const rank = Math.floor((event.offsetY - TOP) / pitch);
  const tick = tickAt(event.offsetX);
  if (!plan.lanes[rank] || tick < 0 || tick > end) return tip.style.visibility = "hidden";
  let words = hover ? `${nameOf(hover)}\n${time(hover[START])} to ${time(hover[END])}` :
    idleAt(rank, tick);
  if (hover && hover[UNIT] >= 0) words += ", an overlapped pair";
  if (hover && hover[LINE]) words += `\n${plan.sources[hover[SOURCE]].name}:${hover[LINE]}`;
  tip.textContent = `${words}\nrank ${rank} holds ${size(heldAt(rank, tick))} activations`;
  tip.style.visibility = "visible";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8) + "px";
}

function markSource() {
  for (const item of document.querySelectorAll("#source .on")) item.classList.remove("on");
  const bar = kept || hover;
  const item = bar && document.getElementById(`line-${bar[SOURCE]}-${bar[LINE]}`);
  if (!item) return;
  item.classList.add("on");
  item.scrollIntoView({ block: "nearest" });
}

function zoom(factor, around) {
  const span = Math.min(end, Math.max((to - from) * factor, Math.min(end, plan.time / 4)));
  const share = (around - from) / (to - from);
  move(around - span * share, span);
}

function move(start, span) {
  from = Math.max(0, Math.min(start, end - span));
  to = from + span;
  redraw();
}

let grip = null;
canvas.addEventListener("pointerdown", (event) => {
  grip = { x: event.clientX, from, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (grip && Math.abs(event.clientX - grip.x) > 3) grip.moved = true;
  if (grip && grip.moved) {
    const perPixel = (to - from) / (canvas.clientWidth - LEFT - RIGHT);
    return move(grip.from - (event.clientX - grip.x) * perPixel, to - from);
  }
  hover = barAt(event.offsetX, event.offsetY);
  say(event);
  markSource();
  redraw();
});
canvas.addEventListener("pointerup", (event) => {
  if (grip && !grip.moved) kept = barAt(event.offsetX, event.offsetY);
  grip = null;
  markSource();
  redraw();
});
canvas.addEventListener("pointerleave", () => {
  hover = null;
  tip.style.visibility = "hidden";
  markSource();
  redraw();
});
canvas.addEventListener("wheel", (event) => {
  if (event.shiftKey) return;  // the lanes scroll
  event.preventDefault();
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    move(from + event.deltaX * (to - from) / canvas.clientWidth, to - from);
  } else {
    zoom(Math.exp(event.deltaY / 400), tickAt(event.offsetX));
  }
}, { passive: false });
canvas.addEventListener("dblclick", () => move(0, end));
window.addEventListener("keydown", (event) => {
  const span = to - from;
  const act = {
    "+": () => zoom(1 / 1.5, (from + to) / 2), "=": () => zoom(1 / 1.5, (from + to) / 2),
    "-": () => zoom(1.5, (from + to) / 2), "0": () => move(0, end),
    ArrowLeft: () => move(from - span / 8, span), ArrowRight: () => move(from + span / 8, span),
    Escape: () => { kept = line = null; markSource(); redraw(); },
  }[event.key];
  if (act && !event.ctrlKey && !event.metaKey) { act(); event.preventDefault(); }
});
window.addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// ------------------------------------------------------------------ the page

function put(parent, tag, words) {
  const node = document.createElement(tag);
  if (words !== undefined) node.textContent = words;
  parent.append(node);
  return node;
}

document.querySelector("h1").textContent = plan.schedule;
document.getElementById("figures").textContent = plan.figures;
for (const [words, paint] of plan.legend) {
  const entry = put(document.getElementById("legend"), "div");
  put(entry, "i").style.background = paint;
  entry.append(words);
}
const asked = new Set(plan.lanes.flat().map((bar) => `${bar[SOURCE]}-${bar[LINE]}`));
plan.sources.forEach((source, s) => {
  put(document.getElementById("source"), "h2", source.name);
  const list = put(document.getElementById("source"), "ol");
  source.text.split("\n").forEach((text, i) => {
    const item = put(list, "li");
    item.id = `line-${s}-${i + 1}`;
    put(item, "span", i + 1);
    item.append(text || " ");
    if (!asked.has(`${s}-${i + 1}`)) return;
    item.className = "has";
    item.addEventListener("pointerenter", () => { line = [s, i + 1]; redraw(); });
    item.addEventListener("pointerleave", () => { line = null; redraw(); });
  });
});
if (!plan.sources.length) document.getElementById("source").remove();
draw();
