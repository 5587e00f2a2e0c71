// The data that `page_data.py` wrote, read into typed arrays, and what is looked up in them.
//
// A bar is its place in the columns of `plan.bars`; the bars of lane n are those from
// `plan.first[n]` up to, without, `plan.first[n + 1]`, in the order of time. Nothing here looks at
// more bars than it has to: places are found by bisection, times are summed in advance.

export const NONE = -1;
const WHAT = ["kind", "pipeline", "stage", "part", "layer", "shade", "source", "line", "takes",
  "frees"];

export function readPlans(text) {
  const { plans } = JSON.parse(text);
  return plans.map((plan, index) => readPlan(plan, index, plans[0].time / plan.time));
}

// `rate`: ticks of the first plan that one of this plan's is, so that both can share an axis.
function readPlan(raw, index, rate) {
  const plan = { ...raw, index, rate };
  plan.whats = raw.whats.map((row) => Object.fromEntries(WHAT.map((key, i) => [key, row[i]])));
  plan.first = Int32Array.from(raw.first);
  plan.bars = {};
  for (const [name, column] of Object.entries(raw.bars)) {
    const times = ["start", "end", "slack", "held", "lag"].includes(name);
    plan.bars[name] = times ? Float64Array.from(column) : Int32Array.from(column);
  }
  plan.count = plan.bars.start.length;
  plan.before = timesBefore(plan);
  plan.most = Math.max(1, greatest(plan.peaks), greatest(plan.limits));
  return plan;
}

function greatest(values) { return values.reduce((a, b) => Math.max(a, b), 0); }

// For every shade the ticks that all bars before one take in it; halves of a pair count half.
function timesBefore(plan) {
  const { start, end, what } = plan.bars;
  const sums = plan.shades.map(() => new Float64Array(plan.count + 1));
  const now = plan.shades.map(() => 0);
  for (let bar = 0; bar < plan.count; bar++) {
    const shade = plan.whats[what[bar]].shade;
    now[shade] += (end[bar] - start[bar]) * weight(plan, bar);
    for (let s = 0; s < sums.length; s++) sums[s][bar + 1] = now[s];
  }
  return sums;
}

export function weight(plan, bar) { return paired(plan, bar) ? 0.5 : 1; }

export function paired(plan, bar) { return plan.bars.unit !== undefined && plan.bars.unit[bar] >= 0; }

// Of a pair the forward is the upper half.
export function isLower(plan, bar) { return paired(plan, bar) && whatOf(plan, bar).kind !== "F"; }

export function whatOf(plan, bar) { return plan.whats[plan.bars.what[bar]]; }

export function laneOf(plan, bar) { return lastAtMost(plan.first, bar, 0, plan.first.length - 1); }

export function rankOf(plan, bar) { return plan.lanes[laneOf(plan, bar)][0]; }

// ---------------------------------------------------------------------- looked up

// The first place in [low, high) whose value is above the limit; high if there is none.
export function firstAbove(values, limit, low, high) {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] > limit) high = middle; else low = middle + 1;
  }
  return low;
}

export function lastAtMost(values, limit, low, high) {
  return firstAbove(values, limit, low, high) - 1;
}

// The bar of a lane that runs at a tick, in the half (true: the lower) if it is one of a pair.
export function barAt(plan, lane, tick, lower) {
  const { start, end } = plan.bars, last = plan.first[lane + 1];
  const bar = firstAbove(end, tick, plan.first[lane], last);
  if (bar >= last || start[bar] > tick) return NONE;
  const other = bar + 1 < last && paired(plan, bar) && start[bar + 1] === start[bar];
  return other && isLower(plan, bar) !== lower ? bar + 1 : bar;
}

// The place in `plan.idle` of the stretch in which a lane is idle at a tick.
export function idleAt(plan, lane, tick) {
  const { first, start, end } = plan.idle;
  const one = firstAbove(end, tick, first[lane], first[lane + 1]);
  return one < first[lane + 1] && start[one] <= tick ? one : NONE;
}

// The stretches that come right before a bar, one after another, the first first.
export function idleBefore(plan, bar) {
  const { first, start, end } = plan.idle, lane = laneOf(plan, bar);
  const found = [];
  let tick = plan.bars.start[bar];
  for (let i = lastAtMost(end, tick, first[lane], first[lane + 1]); i >= first[lane]; i--) {
    if (end[i] !== tick) break;
    found.unshift(i);
    tick = start[i];
  }
  return found;
}

export function heldAt(plan, rank, tick) {
  const { first, tick: ticks, grains } = plan.memory;
  return grains[lastAtMost(ticks, tick, first[rank], first[rank + 1])] ?? 0;
}

export function needsOf(plan, bar) {
  const { first_need: first, needs, lag } = plan.bars, found = [];
  for (let i = first[bar]; i < first[bar + 1]; i++) found.push({ bar: needs[i], lag: lag[i] });
  return found;
}

// The bars that need one: the table of needs turned around, once, when it is first asked for.
export function usersOf(plan, bar) {
  plan.users ??= turned(plan);
  return plan.users.bars.subarray(plan.users.first[bar], plan.users.first[bar + 1]);
}

function turned(plan) {
  const { first_need: from, needs } = plan.bars;
  const first = new Int32Array(plan.count + 1), bars = new Int32Array(needs.length);
  for (const other of needs) first[other + 1]++;
  for (let bar = 0; bar < plan.count; bar++) first[bar + 1] += first[bar];
  const next = first.slice();
  for (let bar = 0; bar < plan.count; bar++) {
    for (let i = from[bar]; i < from[bar + 1]; i++) bars[next[needs[i]]++] = bar;
  }
  return { first, bars };
}

// The largest value of every block of memory levels, and of blocks of blocks: the most that a rank
// holds in any stretch of time is found without looking at all levels in it.
const BLOCK = 16;
export function mostBetween(plan, low, high) {
  plan.blocks ??= blocks(Float64Array.from(plan.memory.grains));
  let most = 0;
  for (let depth = 0; low < high; depth++) {
    const values = plan.blocks[depth], inner = plan.blocks[depth + 1];
    while (low < high && (!inner || low % BLOCK)) most = Math.max(most, values[low++]);
    while (low < high && high % BLOCK) most = Math.max(most, values[--high]);
    low /= BLOCK;
    high /= BLOCK;
  }
  return most;
}

function blocks(values) {
  const found = [values];
  for (let last = values; last.length > BLOCK;) {
    const next = new Float64Array(Math.ceil(last.length / BLOCK));
    last.forEach((value, i) => { next[i / BLOCK | 0] = Math.max(next[i / BLOCK | 0], value); });
    found.push(last = next);
  }
  return found;
}
