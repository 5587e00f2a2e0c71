// `Viewport`: which stretch of time and which rows the chart shows, in device pixels.
//
// A tick lies at `round(tick × scale) − left`: the left edge is a whole number of pixels, so that a
// move shifts all that is drawn by as many and nothing has to be rounded anew.

const TALLEST = 88, THINNEST = 3;  // heights of a row that one gets without asking, in CSS pixels
const CURVES = 34;                 // of a row from which on there is room for memory curves
const HEADING = 20;                // above every plan, where there are several

export class Viewport {
  constructor(plans) {
    this.plans = plans;
    this.end = Math.max(1, ...plans.map((plan) => plan.makespan * plan.rate));
    this.shortest = Math.min(this.end, ...plans.map(shortest));
    this.rows = plans.flatMap((plan, p) => plan.lanes.map((_, lane) => ({ plan, p, lane })));
    this.left = this.top = 0;
    this.width = this.height = this.dots = 1;
    this.scale = this.pitch = 0;
  }

  // The chart has another size. What was all in sight stays so.
  resize(width, height, dots) {
    const wide = !this.scale || this.isWhole(), middle = this.tick(this.width / 2);
    const tall = !this.pitch || this.pitch === this.fitting() && dots === this.dots;
    Object.assign(this, { width, height, dots });
    if (tall) this.pitch = this.fitting();
    if (wide) this.scale = width / this.end;
    else this.left = Math.round(middle * this.scale - width / 2);
    this.keep();
  }

  fitting() {
    const room = Math.floor((this.height - this.headings()) / Math.max(1, this.rows.length));
    return Math.max(THINNEST * this.dots, Math.min(room, TALLEST * this.dots)) | 0;
  }

  isWhole() { return Math.abs(this.scale - this.width / this.end) < 1e-9 * this.scale; }

  // ------------------------------------------------------------------ time

  x(tick) { return Math.round(tick * this.scale) - this.left; }

  tick(x) { return (x + this.left) / this.scale; }

  // Shows as many times more, around the pixel x.
  zoom(times, x) {
    const tick = this.tick(x), least = this.width / this.end;
    const most = Math.max(least, 300 * this.dots / this.shortest);
    this.scale = Math.min(most, Math.max(least, this.scale * times));
    this.left = Math.round(tick * this.scale - x);
    this.keep();
  }

  show(from, to) {
    this.scale = Math.max(this.width / this.end, this.width / Math.max(to - from, 1e-9));
    this.left = Math.round(from * this.scale);
    this.zoom(1, this.width / 2);
  }

  // ------------------------------------------------------------------ rows

  headings() { return this.plans.length > 1 ? this.plans.length * HEADING * this.dots : 0; }

  rowTop(row) {
    const above = this.plans.length > 1 ? (this.rows[row].p + 1) * HEADING * this.dots : 0;
    return row * this.pitch + above - this.top;
  }

  // The row at a pixel y, or -1.
  rowAt(y) {
    let row = Math.floor((y + this.top) / this.pitch);
    if (this.plans.length > 1) {
      row = Math.min(row, this.rows.length - 1);
      while (row >= 0 && this.rowTop(row) > y) row--;
    }
    return row >= 0 && row < this.rows.length && y < this.rowTop(row) + this.pitch ? row : -1;
  }

  // The rows that are in sight, from the first up to, without, the last.
  shownRows() {
    let first = Math.max(0, Math.floor((this.top - this.headings()) / this.pitch));
    while (first < this.rows.length && this.rowTop(first) + this.pitch <= 0) first++;
    let last = first;
    while (last < this.rows.length && this.rowTop(last) < this.height) last++;
    return [first, last];
  }

  stretch(times, y) {
    const at = (y + this.top) / this.pitch;
    const least = Math.min(this.fitting(), THINNEST * this.dots);
    this.pitch = Math.round(this.pitch * times) + (times > 1 ? 1 : 0);
    this.pitch = Math.max(least, Math.min(this.pitch, 120 * this.dots));
    this.top = Math.round(at * this.pitch - y);
    this.keep();
  }

  // Heights within a row: of its bars, of the memory curve below, and where that begins.
  heights() {
    const css = this.pitch / this.dots;
    if (css >= CURVES) {
      const bars = Math.round(0.52 * this.pitch), curve = Math.round(0.3 * this.pitch);
      return { bars, curve, below: bars + Math.round(2 * this.dots) };
    }
    const gap = css >= 14 ? 3 : css >= 7 ? 2 : css >= 3 ? 1 : 0;
    return { bars: Math.max(1, this.pitch - Math.round(gap * this.dots)), curve: 0, below: 0 };
  }

  // ------------------------------------------------------------------ both

  move(dx, dy) {
    const { left, top } = this;
    this.left += Math.round(dx);
    this.top += Math.round(dy);
    this.keep();
    return [this.left - left, this.top - top];
  }

  keep() {
    const tall = this.rows.length * this.pitch + this.headings();
    this.left = Math.max(0, Math.min(this.left, Math.round(this.end * this.scale) - this.width));
    this.top = Math.max(0, Math.min(this.top, tall - this.height));
  }

  all() {
    this.scale = this.width / this.end;
    this.pitch = this.fitting();
    this.left = this.top = 0;
  }

  // Moves as little as is needed to have these ticks and this row in sight.
  reveal(from, to, row) {
    const margin = Math.min(80 * this.dots, this.width / 4);
    let dx = 0, dy = 0;
    if (this.x(from) < margin) dx = this.x(from) - margin;
    else if (this.x(to) > this.width - margin) {
      dx = Math.min(this.x(to) - this.width + margin, this.x(from) - margin);
    }
    if (this.rowTop(row) < 0) dy = this.rowTop(row);
    else if (this.rowTop(row) + this.pitch > this.height) {
      dy = this.rowTop(row) + this.pitch - this.height;
    }
    return this.move(dx, dy);
  }
}

function shortest(plan) {
  const { start, end } = plan.bars;
  let least = Infinity;
  for (let bar = 0; bar < plan.count; bar++) {
    const took = end[bar] - start[bar];
    if (took > 0 && took < least) least = took;
  }
  return least * plan.rate;
}
