// The picture as tables, for screen readers and for whoever would rather read: a row per rank; below,
// all that one rank does. They are made when they are asked for.

import { NONE, idleBefore, weight } from "./model.js";
import { button, byId, put } from "./dom.js";
import { nameOf, size, time } from "./words.js";

const ROWS = 500;  // rows at a time

// `go` is told the plan and the bar that a click names.
export function prepareTables(plans, go) {
  const box = byId("tables"), first = byId("ranks");
  box.addEventListener("toggle", () => {
    if (!box.open || first.tBodies.length) return;
    plans.forEach((plan, i) => {
      const table = i ? first.cloneNode(true) : first;
      if (i) {
        table.id = `ranks-${i}`;
        table.replaceChildren(table.caption);
        box.insertBefore(table, byId("operations"));
      }
      if (plans.length > 1) table.caption.prepend(`${plan.schedule}: `);
      showRanks(plan, table, (bar) => go(plan, bar));
      if (plan.hidden.rows.length) showHidden(plan, box);
    });
  });
}

// How much of the time on other streams lies under computation, rank by rank.
function showHidden(plan, box) {
  const table = document.createElement("table");
  table.className = "hidden-share";
  box.insertBefore(table, byId("operations"));
  put(table, "caption", "How much of the time beside computation is hidden under it");
  head(table, plan.hidden.head);
  more(table, plan.hidden.rows.length, (i, row) => {
    const [name, ...cells] = plan.hidden.rows[i];
    put(row, "th", name, { scope: "row" });
    for (const words of cells) put(row, "td", words);
  });
}

function showRanks(plan, table, go) {
  const of = plan.streams.length > 1 ? `${plan.streams[0]} ` : "";
  head(table, ["rank", "operations", `${of}busy`, ...plan.causes.map((words) => `${of}idle: ${words}`),
    "peak of memory", "limit"]);
  more(table, plan.ranks, (rank, row) => {
    const cell = put(row, "th", null, { scope: "row" });
    button(cell, `rank ${rank}`, () => showRank(plan, rank, go), { className: "link" });
    const limit = plan.limits[rank] ?? NONE, lanes = lanesOf(plan, rank);
    const idle = idleTimes(plan, lanes[0]);
    const many = lanes.reduce((sum, n) => sum + plan.first[n + 1] - plan.first[n], 0);
    const busy = busyOf(plan, lanes[0]);
    for (const words of [many, time(plan, busy), ...idle.map((ticks) => time(plan, ticks)),
      size(plan, plan.peaks[rank]), limit === NONE ? "none" : size(plan, limit)]) {
      put(row, "td", words);
    }
  });
}

function showRank(plan, rank, go) {
  const table = byId("operations");
  table.replaceChildren();
  put(table, "caption", `What rank ${rank} does`);
  head(table, ["operation", "start", "end", "slack", "memory before", "waited"]);
  const { start, end, slack, held } = plan.bars;
  const bars = lanesOf(plan, rank).flatMap((lane) =>
    Array.from({ length: plan.first[lane + 1] - plan.first[lane] }, (_, i) => plan.first[lane] + i));
  more(table, bars.length, (i, row) => {
    const bar = bars[i], cell = put(row, "th", null, { scope: "row" });
    button(cell, nameOf(plan, bar), () => go(bar), { className: "link" });
    const waits = idleBefore(plan, bar).map((one) =>
      `${time(plan, plan.idle.end[one] - plan.idle.start[one])}: ${plan.idle.why[one]}`);
    for (const words of [time(plan, start[bar]), time(plan, end[bar]), time(plan, slack[bar]),
      size(plan, held[bar]), waits.join("; ") || "no"]) put(row, "td", words);
  });
  table.scrollIntoView({ block: "nearest" });
}

function lanesOf(plan, rank) {
  if (plan.streams.length === 1) return [rank];
  return plan.lanes.flatMap(([r], lane) => (r === rank ? [lane] : []));
}

// How long a lane is occupied; the halves of a pair count half.
function busyOf(plan, lane) {
  let ticks = 0;
  for (let bar = plan.first[lane]; bar < plan.first[lane + 1]; bar++) {
    ticks += (plan.bars.end[bar] - plan.bars.start[bar]) * weight(plan, bar);
  }
  return ticks;
}

function idleTimes(plan, lane) {
  const { first, start, end, cause } = plan.idle, ticks = plan.causes.map(() => 0);
  for (let i = first[lane]; i < first[lane + 1]; i++) ticks[cause[i]] += end[i] - start[i];
  return ticks;
}

function head(table, names) {
  const row = put(put(table, "thead"), "tr");
  for (const name of names) put(row, "th", name, { scope: "col" });
}

// Rows from 0 on, so many at a time.
function more(table, many, fill) {
  const body = put(table, "tbody");
  let next = 0;
  const grow = () => {
    for (const last = Math.min(many, next + ROWS); next < last; next++) fill(next, put(body, "tr"));
    if (next >= many) return;
    const cell = put(put(body, "tr"), "td", null, { colSpan: 20 });
    button(cell, `${many - next} more`, () => { cell.parentNode.remove(); grow(); });
  };
  grow();
}
