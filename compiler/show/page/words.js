// What bars, times and sizes are called: the notation that the schedule file uses.

import { NONE, whatOf } from "./model.js";

export function time(plan, ticks) { return fraction(ticks, plan.time); }

export function size(plan, grains) {
  return fraction(grains, plan.size) + (plan.sizes && `\u00a0${plan.sizes}`);
}

// `n / unit` as one reads it: whole, else as a decimal of at most six figures.
function fraction(n, unit) {
  if (n % unit === 0) return grouped(n / unit);
  return String(Number((n / unit).toPrecision(6)));
}

// A time of an axis whose marks are `step` apart: six figures, or where these do not tell one mark
// from the next, what comes on top of the whole number before it.
export function mark(value, step) {
  const whole = Math.round(value);
  if (Math.abs(value - whole) < step / 1000) return grouped(whole);
  const six = Number(value.toPrecision(6));
  if (Math.abs(six - value) < step / 100) return String(six);
  return `+${Number((value - Math.floor(value)).toPrecision(4))}`;
}

function grouped(n) {
  const digits = String(n);
  return digits.length > 4 ? digits.replace(/\B(?=(\d{3})+$)/g, "\u202f") : digits;
}

export function nameOf(plan, bar) {
  const { kind, pipeline, stage, part, layer } = whatOf(plan, bar), { slice } = plan.bars;
  const cut = slice && slice[bar] !== NONE ? `, slice ${slice[bar]}` : "";
  const deep = layer === NONE ? "" : `, layer ${layer}`;
  const where = `${stage}, ${plan.bars.microbatch[bar]}${cut}${deep}`;
  return `${kind}${part ? `.${part}` : ""} ${plan.pipelines[pipeline]}[${where}]`;
}

// What stands in a bar with room for it: the letter, small for every second pipeline, and the
// micro-batch with its slice.
export function letterOf(plan, bar) {
  const { kind, pipeline } = whatOf(plan, bar);
  return pipeline % 2 ? kind.toLowerCase() : kind;
}

export function labelOf(plan, bar) {
  const { microbatch, slice } = plan.bars;
  const cut = slice && slice[bar] !== NONE ? `.${slice[bar]}` : "";
  return `${letterOf(plan, bar)}${microbatch[bar]}${cut}`;
}
