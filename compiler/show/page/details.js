// The panel about what was chosen, and where one can go from there: what it needs, what needs it,
// its neighbours on the rank, what held it up, the next idle stretch.

import { NONE, firstAbove, laneOf, lastAtMost, needsOf, rankOf, usersOf } from "./model.js";
import { barThing, idleThing } from "./overlay.js";
import { button, byId, put } from "./dom.js";
import { titleOf, told } from "./tell.js";
import { nameOf, time } from "./words.js";

const LINKS = 12;  // links of one kind

export function showDetails(chosen, go) {
  const panel = byId("details");
  panel.replaceChildren();
  if (!chosen) return put(panel, "p", "Click a bar or an idle stretch to keep it here.");
  put(panel, "h2", titleOf(chosen));
  const list = put(panel, "dl");
  for (const [name, words] of told(chosen)) {
    put(list, "dt", name);
    put(list, "dd", words);
  }
  const { plan, bar } = chosen;
  const row = put(panel, "div", null, { className: "go" });
  for (const [words, key, target] of STEPS) {
    const to = target(chosen);
    button(row, words, () => go(to), { disabled: !to, title: `key ${key}` });
  }
  if (bar === undefined) return panel;
  links(panel, "needs", needsOf(plan, bar).map(({ bar: other, lag }) => [other,
    lag ? `, there at ${time(plan, plan.bars.end[other] + lag)}` : ""]), chosen, go);
  links(panel, "needed by", [...usersOf(plan, bar)].map((other) => [other, ""]), chosen, go);
  return panel;
}

function links(panel, title, found, { plan, bar }, go) {
  if (!found.length) return;
  put(panel, "h3", title);
  const list = put(panel, "ul");
  for (const [other, words] of found.slice(0, LINKS)) {
    const item = put(list, "li"), away = rankOf(plan, other) !== rankOf(plan, bar);
    button(item, nameOf(plan, other), () => go(barThing(plan, other)), { className: "link" });
    item.append(`${away ? ` rank ${rankOf(plan, other)}` : ""}${words}`);
  }
  if (found.length > LINKS) put(list, "li", `and ${found.length - LINKS} more`);
}

// ---------------------------------------------------------------------- steps from here

function neighbour(thing, step) {
  const { plan, lane } = thing, { start, end } = plan.bars;
  const first = plan.first[lane], last = plan.first[lane + 1];
  let bar = thing.bar === undefined ? NONE : thing.bar + step;
  if (thing.bar === undefined) {
    bar = step > 0 ? firstAbove(start, thing.to - 1e-9, first, last)
      : lastAtMost(end, thing.from, first, last);
  }
  return bar >= first && bar < last ? barThing(plan, bar) : null;
}

function heldUpBy({ plan, bar, to, lane }) {
  if (bar === undefined) {  // what the bar that ends the stretch came after
    const next = firstAbove(plan.bars.start, to - 1e-9, plan.first[lane], plan.first[lane + 1]);
    if (next >= plan.first[lane + 1]) return null;
    bar = next;
  }
  const before = plan.bars.after[bar];
  return before === NONE ? null : barThing(plan, before);
}

function awaiting({ plan, bar }) {
  if (bar === undefined) return null;
  const users = [...usersOf(plan, bar)];
  const away = users.find((one) => laneOf(plan, one) !== laneOf(plan, bar));
  const next = away ?? users[0];
  return next === undefined ? null : barThing(plan, next);
}

function nextIdle({ plan, lane, from, idle }) {
  const { first, start } = plan.idle;
  const next = idle === undefined ? firstAbove(start, from, first[lane], first[lane + 1]) : idle + 1;
  return next < first[lane + 1] ? idleThing(plan, lane, next) : null;
}

// Words, key, and where it leads from what is chosen.
export const STEPS = [
  ["◂ on rank", ",", (thing) => neighbour(thing, -1)],
  ["on rank ▸", ".", (thing) => neighbour(thing, 1)],
  ["held up by", "b", heldUpBy],
  ["passes on to", "f", awaiting],
  ["next idle", "n", nextIdle],
];
