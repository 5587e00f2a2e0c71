// What lies over the chart: a frame around what is under the pointer (an element that is moved,
// nothing is drawn), around what was chosen, arrows from what it needs and to what needs it, and the
// critical chain.

import { firstAbove, isLower, laneOf, needsOf, paired, usersOf } from "./model.js";

export class Overlay {
  constructor(canvas, frame, viewport) {
    Object.assign(this, { canvas, frame, viewport });
    this.pen = canvas.getContext("2d");
    this.touched = 0;
  }

  // The rectangle of a bar, or of an idle stretch, in device pixels.
  box({ plan, lane, bar, from, to }) {
    const { viewport } = this, { bars } = viewport.heights();
    const row = rowOf(viewport, plan, lane), y = viewport.rowTop(row);
    const half = bar !== undefined && paired(plan, bar);
    const x0 = viewport.x(from * plan.rate), x1 = viewport.x(to * plan.rate);
    const top = y + (half && isLower(plan, bar) ? bars >> 1 : 0);
    return [x0, top, Math.max(x1, x0 + 1), top + (half ? bars >> 1 : bars)];
  }

  point(thing) {
    const { frame, viewport: { dots, width } } = this;
    this.touched = thing ? 1 : 0;
    frame.hidden = !thing;
    if (!thing) return;
    const [x0, y0, x1, y1] = this.box(thing);
    const left = Math.max(0, x0), right = Math.min(width, x1);
    frame.style.transform = `translate(${left / dots}px, ${y0 / dots}px)`;
    frame.style.width = `${Math.max(2, (right - left) / dots)}px`;
    frame.style.height = `${(y1 - y0) / dots}px`;
  }

  draw(look, chosen, chain) {
    const { pen, canvas, viewport: { dots } } = this;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (chain) this.chain(look, chain);
    if (!chosen) return;
    const [x0, y0, x1, y1] = this.box(chosen);
    for (const [colour, wide] of [[look.card, 4], [look.ink, 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * dots;
      pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    if (chosen.bar === undefined) return;
    const { plan, bar } = chosen, { end } = plan.bars;
    for (const { bar: other, lag } of needsOf(plan, bar)) {
      this.arrow(look, plan, other, bar, end[other] + lag);
    }
    for (const other of usersOf(plan, bar)) {
      const { lag } = needsOf(plan, other).find((need) => need.bar === bar);
      this.arrow(look, plan, bar, other, end[bar] + lag);
    }
  }

  // From where a result was made to where it is used; a point where it has arrived.
  arrow(look, plan, from, to, arrived) {
    const { pen, viewport } = this, { dots } = viewport;
    const a = this.box(barThing(plan, from)), b = this.box(barThing(plan, to));
    const x0 = a[2], y0 = (a[1] + a[3]) / 2, x1 = b[0], y1 = (b[1] + b[3]) / 2;
    const x = viewport.x(arrived * plan.rate), within = laneOf(plan, from) === laneOf(plan, to);
    const bend = Math.min(40 * dots, Math.max(4 * dots, Math.abs(x1 - x0) / 2));
    const dip = within && x1 > x0 + dots ? Math.min(24 * dots, bend) : 0;  // within a row it swings below the bars
    for (const [colour, wide] of [[look.card, 3.5], [look.ink, 1.4]]) {
      pen.strokeStyle = pen.fillStyle = colour;
      pen.lineWidth = wide * dots;
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.bezierCurveTo(x0 + bend, y0 + dip, x1 - bend, y1 + dip, x1, y1);
      pen.stroke();
      pen.beginPath();
      pen.moveTo(x1 + dots, y1);
      pen.lineTo(x1 - 6 * dots, y1 - 3.5 * dots);
      pen.lineTo(x1 - 6 * dots, y1 + 3.5 * dots);
      pen.fill();
    }
    if (x > x0 + dots && !within) {
      pen.beginPath();
      pen.arc(x, y1, 2.5 * dots, 0, 7);
      pen.fill();
    }
  }

  // The critical chain as a line through its bars: those in sight, no two within two pixels.
  chain(look, plan) {
    const { pen, viewport } = this, { dots, width } = viewport, { start, end } = plan.bars;
    plan.chainStarts ??= Float64Array.from(plan.chain, (bar) => start[bar]);
    const starts = plan.chainStarts, many = starts.length;
    pen.strokeStyle = look.chain;
    pen.lineWidth = 2 * dots;
    pen.lineJoin = "round";
    pen.beginPath();
    const from = viewport.tick(0) / plan.rate;
    let i = Math.max(0, firstAbove(starts, from, 0, many) - 1), more = false;
    while (i < many) {
      const thing = barThing(plan, plan.chain[i]), [x0, y0, x1, y1] = this.box(thing);
      const y = (y0 + y1) / 2;
      if (more) pen.lineTo(x0, y); else pen.moveTo(x0, y);
      pen.lineTo(x1, y);
      more = true;
      if (x0 > width) break;
      const next = viewport.tick(x0 + 2 * dots) / plan.rate;
      i = Math.max(i + 1, firstAbove(starts, Math.min(next, end[plan.chain[i]] - 1e-9), i, many));
    }
    pen.stroke();
  }
}

// What is pointed at or chosen: a bar, or a stretch of a lane without one.
export function barThing(plan, bar) {
  return { plan, bar, lane: laneOf(plan, bar), from: plan.bars.start[bar], to: plan.bars.end[bar] };
}

export function idleThing(plan, lane, idle) {
  return { plan, idle, lane, from: plan.idle.start[idle], to: plan.idle.end[idle] };
}

export function rowOf(viewport, plan, lane) {
  let row = lane;
  for (let p = 0; p < plan.index; p++) row += viewport.plans[p].lanes.length;
  return row;
}
