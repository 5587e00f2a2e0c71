// What is told of a bar or of an idle stretch, as lines of [name, words]: in the tip at the pointer
// and in the panel.

import { NONE, heldAt, idleBefore, needsOf, paired, rankOf, whatOf } from "./model.js";
import { nameOf, size, time } from "./words.js";

export function told(thing) {
  return thing.bar === undefined ? toldOfIdle(thing) : toldOfBar(thing);
}

export function titleOf({ plan, bar, lane }) {
  if (bar !== undefined) return nameOf(plan, bar);
  const [rank, stream] = plan.lanes[lane];
  return `rank ${rank}${plan.streams.length > 1 ? ` ${plan.streams[stream]}` : ""} is idle`;
}

function toldOfBar({ plan, bar }) {
  const { start, end, slack, held } = plan.bars, { kind, takes, frees } = whatOf(plan, bar);
  const rank = rankOf(plan, bar), mate = mateOf(plan, bar);
  const both = [bar, mate].filter((one) => one !== NONE).map((one) => whatOf(plan, one));
  const after = plan.streams.length > 1 ? heldAt(plan, rank, end[bar])  // others run beside it
    : both.reduce((sum, one) => sum + one.takes - one.frees, held[bar]);
  const limit = plan.limits[rank] ?? NONE;
  const lines = [
    ["what", `${plan.kinds[kind]}, rank ${rank}`],
    ["time", `${time(plan, start[bar])} to ${time(plan, end[bar])}, ` +
      `${time(plan, end[bar] - start[bar])} long`],
    ["slack", slack[bar] ? `${time(plan, slack[bar])} longer delays nothing in the end`
      : "none: every delay of it delays the end"],
    ["memory", `${size(plan, held[bar])} before, ${size(plan, after)} after` +
      `${takes ? `; takes ${size(plan, takes)}` : ""}${frees ? `; frees ${size(plan, frees)}` : ""}` +
      `${limit === NONE ? "" : `; limit ${size(plan, limit)}`}`],
  ];
  lines.push(["began", whyThen(plan, bar)]);
  if (mate !== NONE) lines.splice(1, 0, ["pair", `overlaps ${nameOf(plan, mate)}`]);
  const place = placeOf(plan, bar);
  if (place) lines.push(["line", place]);
  return lines;
}

function toldOfIdle({ plan, idle, lane }) {
  const { start, end, cause, why } = plan.idle, rank = plan.lanes[lane][0];
  return [
    ["time", `${time(plan, start[idle])} to ${time(plan, end[idle])}, ` +
      `${time(plan, end[idle] - start[idle])} long`],
    ["cause", plan.causes[cause[idle]]],
    ["why", why[idle]],
    ["memory", `${size(plan, heldAt(plan, rank, start[idle]))} held`],
  ];
}

// Why a bar began when it did: what its rank waited for before it, or what it came right after.
function whyThen(plan, bar) {
  const waits = idleBefore(plan, bar);
  if (waits.length) {
    const { start, end, why } = plan.idle;
    return waits.map((i) =>
      `after ${time(plan, end[i] - start[i])} of waiting: ${why[i]}`).join("; ");
  }
  const before = plan.bars.after[bar];
  if (before === NONE) return "with the step";
  const need = needsOf(plan, bar).find((one) => one.bar === before);
  const where = rankOf(plan, before) === rankOf(plan, bar) ? "" : ` of rank ${rankOf(plan, before)}`;
  return `right after ${nameOf(plan, before)}${where}${need ? ", which it needs" : ""}`;
}

function mateOf(plan, bar) {
  if (!paired(plan, bar)) return NONE;
  const { unit } = plan.bars;
  return [bar - 1, bar + 1].find((one) => unit[one] === unit[bar] &&
    rankOf(plan, one) === rankOf(plan, bar)) ?? NONE;
}

function placeOf(plan, bar) {
  const { source, line } = whatOf(plan, bar);
  return source === NONE ? "" : `${plan.sources[source].name}:${line}`;
}
