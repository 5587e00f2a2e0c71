// What is looked at while the rest is faded: the bars of a micro-batch, of a line of the source, of
// the critical chain. One pass over the bars when it is chosen; then any bar, and whether there is
// one among many, is told at once.

import { NONE, firstAbove, whatOf } from "./model.js";

class Lit {
  constructor(plan, has) {
    this.plan = plan;
    this.before = new Int32Array(plan.count + 1);
    for (let bar = 0; bar < plan.count; bar++) {
      this.before[bar + 1] = this.before[bar] + (has(bar) ? 1 : 0);
    }
  }

  get count() { return this.before[this.plan.count]; }

  is(plan, bar) { return this.among(plan, bar, bar + 1); }

  among(plan, from, to) { return plan === this.plan && this.before[to] > this.before[from]; }

  // The first of some bars that is lit, or -1.
  first(plan, from, to) {
    if (!this.among(plan, from, to)) return NONE;
    return firstAbove(this.before, this.before[from], from, to + 1) - 1;
  }
}

export function litMicrobatch(plan, bar) {
  const { microbatch } = plan.bars, { pipeline } = whatOf(plan, bar);
  return new Lit(plan, (one) =>
    microbatch[one] === microbatch[bar] && whatOf(plan, one).pipeline === pipeline);
}

export function litLine(plan, source, line) {
  const asked = plan.whats.map((what) => what.source === source && what.line === line);
  return new Lit(plan, (one) => asked[plan.bars.what[one]]);
}

export function litChain(plan) {
  const chain = new Set(plan.chain);
  return new Lit(plan, (one) => chain.has(one));
}
