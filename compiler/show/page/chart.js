// `Chart`: the rows that are in sight, with their bars, idle stretches and memory curves.
//
// What is too narrow to be seen is not drawn bar by bar: a cell a few pixels wide shows by the
// heights of its colours how much of that time goes into each, and what is left is idle time. How
// much is drawn depends on the pixels, not on the plan; `touched` counts the bars that were looked
// at. A move shifts the picture and draws what has come into sight, and what the edges cut, since
// its label stands in the visible part.

import { NONE, firstAbove, isLower, lastAtMost, mostBetween, paired, weight, whatOf }
  from "./model.js";
import { Raster, blend } from "./raster.js";
import { labelOf, letterOf } from "./words.js";

const CELL = 3, WIDE = 4;        // CSS pixels: of a cell, and of a bar that is drawn by itself
const WORDS = 64;                // of an idle stretch that tells its cause
const THIN = 4;                  // of what runs beside the computations

export class Chart {
  constructor(canvas, viewport, silent = false) {
    this.canvas = canvas;
    this.silent = silent;  // no words
    this.pen = canvas.getContext("2d");
    this.viewport = viewport;
    this.touched = 0;
    this.lit = null;
  }

  resize(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.raster = new Raster(width, height, this.viewport.dots);
  }

  // Everything that is in sight.
  draw() {
    const { viewport, raster, pen } = this, { width, height } = viewport;
    this.begin();
    raster.fill(0, 0, width, height, this.look.pixel.card);
    const [first, last] = viewport.shownRows();
    for (let row = first; row < last; row++) this.row(row, 0, width, false);
    raster.put(pen, 0, 0, width, height);
    this.write();
  }

  // The viewport has moved by as many pixels.
  move(dx, dy) {
    const { viewport, pen, canvas } = this, { width, height, pitch } = viewport;
    if (Math.abs(dx) >= width || Math.abs(dy) >= height) return this.draw();
    this.begin();
    pen.globalCompositeOperation = "copy";
    pen.drawImage(canvas, -dx, -dy);
    pen.globalCompositeOperation = "source-over";
    const [first, last] = viewport.shownRows();
    for (let row = first; row < last; row++) {
      const was = viewport.rowTop(row) + dy;  // where its top was
      if (was < 0 || was + pitch > height) this.row(row, 0, width, true);
      else if (dx) {
        this.row(row, dx > 0 ? width - dx : 0, dx > 0 ? width : -dx, true);
        this.row(row, dx > 0 ? 0 : width - 1, dx > 0 ? 1 : width, true);
      }
    }
    if (dy) this.below(last);
    this.write();
  }

  begin() {
    this.touched = 0;
    this.labels = new Map();  // each once, though both edges of a move may cut one bar
    this.heights = this.viewport.heights();
    this.cell = CELL * this.viewport.dots | 0;
    this.wide = WIDE * this.viewport.dots | 0;
    this.step = axisStep(this.viewport);
    this.bright = this.look.shades.map((shades) => shades.map((shade) => shade.bright));
    this.faded = this.look.shades.map((shades) => shades.map((shade) => shade.faded));
  }

  // The space below the last row.
  below(last) {
    const { viewport, pen } = this;
    const y = last ? viewport.rowTop(last - 1) + viewport.pitch : 0;
    pen.fillStyle = this.look.card;
    pen.fillRect(0, y, viewport.width, Math.max(0, viewport.height - y));
  }

  // ------------------------------------------------------------------ one row

  // The pixels from a to b of a row, and the rest of what they cut.
  row(row, a, b, put) {
    const { viewport, raster, look, heights } = this, y = viewport.rowTop(row);
    const { plan, lane } = viewport.rows[row];
    const at = { row, plan, lane, y, from: plan.first[lane], to: plan.first[lane + 1] };
    [a, b] = this.whole(at, a, b);
    raster.fill(a, y, b, y + viewport.pitch, look.pixel.card);
    this.grid(a, b, y);
    raster.fill(a, y, Math.min(b, this.x(at, plan.makespan)), y + heights.bars, look.pixel.soft);
    this.bars(at, a, b);
    if (plan.beside.start.length) this.beside(at, a, b);
    if (heights.curve && !plan.lanes[lane][1]) this.curve(at, a, b);
    if (put) raster.put(this.pen, a, y, b, y + viewport.pitch);
  }

  x(at, tick) { return this.viewport.x(tick * at.plan.rate); }

  tick(at, x) { return this.viewport.tick(x) / at.plan.rate; }

  isWide(at, bar) {
    const { start, end } = at.plan.bars;
    return this.x(at, end[bar]) - this.x(at, start[bar]) >= this.wide;
  }

  // From a to b, wider by what is cut there: a bar, an idle stretch, a cell.
  whole(at, a, b) {
    const { start, end } = at.plan.bars, { left, width } = this.viewport;
    const edge = (x) => {
      const bar = firstAbove(end, this.tick(at, x), at.from, at.to);
      const idle = bar >= at.to || this.x(at, start[bar]) > x;
      if (idle) {
        const before = bar > at.from ? end[bar - 1] : 0;
        return [this.x(at, before), bar < at.to ? this.x(at, start[bar]) : width];
      }
      if (this.isWide(at, bar)) return [this.x(at, start[bar]), this.x(at, end[bar])];
      const cell = Math.floor((x + left) / this.cell) * this.cell - left;
      return [cell, cell + this.cell];
    };
    return [Math.max(0, Math.min(a, edge(a)[0])), Math.min(width, Math.max(b, edge(b - 1)[1]))];
  }

  bars(at, a, b) {
    const { start, end } = at.plan.bars, { left } = this.viewport;
    let bar = firstAbove(end, this.tick(at, a), at.from, at.to), done = a;
    if (bar < at.to && this.isWide(at, bar) && this.x(at, end[bar]) <= a) bar++;
    while (bar < at.to) {
      const x0 = this.x(at, start[bar]);
      if (x0 >= b) break;
      if (x0 - done >= WORDS * this.viewport.dots) this.idle(at, done, x0);
      if (this.isWide(at, bar)) {
        done = this.x(at, end[bar]);
        this.bar(at, bar++, x0, done);
        continue;
      }
      const from = Math.max(x0, done);
      const cell = (Math.floor((from + left) / this.cell) + 1) * this.cell - left;
      const next = firstAbove(end, this.tick(at, cell), bar, at.to);
      done = cell;
      if (next < at.to && this.x(at, start[next]) < cell && this.isWide(at, next)) {
        done = Math.max(from, this.x(at, start[next]));
      }
      if (done > from) this.crowd(at, bar, next, from, done);
      bar = next;
    }
    if (b - done >= WORDS * this.viewport.dots) this.idle(at, done, b);
  }

  bar(at, bar, x0, x1) {
    const { raster, heights, viewport } = this, { plan, y } = at;
    const lower = isLower(plan, bar), half = paired(plan, bar);
    const gap = viewport.dots | 0, middle = heights.bars >> 1;
    const y0 = y + (lower ? middle : 0);
    const y1 = y + (half && !lower ? middle - (middle > 4 * gap ? gap : 0) : heights.bars);
    const right = x1 - x0 >= this.wide ? x1 - gap : x1;
    const { bright, faded, ink } = this.look.shades[plan.index][whatOf(plan, bar).shade];
    const lit = !this.lit || this.lit.is(plan, bar), paint = lit ? bright : faded;
    this.touched++;
    const told = this.label(at, bar, [x0, y0, right, y1], lit ? ink : this.look.dim);
    if (told) raster.fill(x0, y0, right, y1, paint.ground);  // its letter tells the kind
    else raster.textured(x0, y0, right, y1, paint);
    if (plan.lanes[at.lane][1]) raster.ruled(x0, y0, right, y1, paint.line);
  }

  // Where bars are too narrow: how much of the time from x to x goes into each shade, by heights,
  // or where the row is too low for these as one mixed colour.
  crowd(at, bar, next, x0, x1) {
    const { raster, heights, look } = this, { plan, y } = at, { start, end } = plan.bars;
    const from = Math.max(this.tick(at, x0), Math.min(start[bar], this.tick(at, x1)));
    const to = this.tick(at, x1), all = Math.max(to - this.tick(at, x0), 1e-9);
    const shades = this.lit ? this.faded[plan.index] : this.bright[plan.index];
    const low = heights.bars < 4, parts = [];
    let done = 0, top = y;
    for (let s = 0; s < shades.length; s++) {
      const ticks = plan.before[s][next] - plan.before[s][bar] +
        this.partly(at, next, to, s) - this.partly(at, bar, from, s);
      if (ticks <= 0) continue;
      done += ticks;
      parts.push([shades[s].ground, ticks / all]);
      const bottom = y + Math.min(heights.bars, Math.round(heights.bars * done / all));
      if (!low) raster.fill(x0, top, x1, bottom, shades[s].ground);
      if (!low && plan.lanes[at.lane][1]) raster.ruled(x0, top, x1, bottom, shades[s].line);
      top = bottom;
    }
    const one = this.lit ? this.lit.first(plan, bar, Math.min(next + 1, at.to)) : NONE;
    if (one !== NONE) {
      const paint = this.bright[plan.index][whatOf(plan, one).shade];
      raster.fill(x0, y, x1, y + heights.bars, paint.ground);
    } else if (low) raster.fill(x0, y, x1, y + heights.bars, blend(parts, look.pixel.soft));
    else if (end[bar] === start[bar] && next - bar === 1) {  // takes no time: a line
      raster.fill(x0, y, x0 + (this.viewport.dots | 0), y + heights.bars,
        shades[whatOf(plan, bar).shade].ground);
    }
    this.touched += 2;
  }

  // Of a bar that a tick cuts, or of the two of a pair: how long it has been in that shade.
  partly(at, bar, tick, shade) {
    const { plan } = at, { start } = plan.bars;
    let ticks = 0;
    for (let one = bar; one < at.to && one <= bar + 1; one++) {
      if (start[one] >= tick || one > bar && start[one] !== start[bar]) break;
      if (whatOf(plan, one).shade === shade) ticks += (tick - start[one]) * weight(plan, one);
    }
    return ticks;
  }

  beside(at, a, b) {
    const { first, start, end } = at.plan.beside, rank = at.plan.lanes[at.lane][0];
    const bottom = at.y + this.heights.bars, thin = Math.min(THIN * this.viewport.dots,
      this.heights.bars / 3) | 0;
    for (let i = first[rank]; i < first[rank + 1]; i++) {
      const x0 = this.x(at, start[i]), x1 = Math.max(x0 + 1, this.x(at, end[i]));
      this.raster.fill(Math.max(a, x0), bottom - thin, Math.min(b, x1), bottom,
        this.look.pixel.beside);
    }
  }

  // The most that the rank holds in every column of pixels, to one scale for all ranks.
  curve(at, a, b) {
    const { raster, heights, look, viewport } = this, { plan } = at;
    const rank = plan.lanes[at.lane][0], { first, tick } = plan.memory;
    const top = at.y + heights.below, bottom = top + heights.curve;
    const up = (grains) => bottom - Math.round(heights.curve * grains / plan.most);
    let low = lastAtMost(tick, this.tick(at, a), first[rank], first[rank + 1]), before = NONE;
    for (let x = a; x < Math.min(b, this.x(at, plan.makespan)); x++) {
      const high = firstAbove(tick, this.tick(at, x + 1), low, first[rank + 1]);
      const y = up(mostBetween(plan, Math.max(low, first[rank]), high));
      raster.fill(x, y, x + 1, bottom, look.pixel.held);
      raster.fill(x, Math.min(y, before === NONE ? y : before), x + 1,
        Math.max(y, before === NONE ? y : before) + 1, look.pixel.edge);
      before = y;
      low = Math.max(first[rank], high - 1);
    }
    const limit = plan.limits[rank] ?? NONE;
    for (let x = a; limit !== NONE && x < b; x++) {
      if ((x + viewport.left) % (7 * viewport.dots) >= 4 * viewport.dots) continue;
      raster.fill(x, up(limit), x + 1, up(limit) + (viewport.dots | 0), look.pixel.limit);
    }
  }

  grid(a, b, y) {
    const { viewport, step } = this, dot = viewport.dots | 0;
    for (let k = Math.floor(viewport.tick(a) / step); k * step <= viewport.tick(b); k++) {
      const x = viewport.x(k * step);
      if (x >= a && x < b) {
        this.raster.fill(x, y, x + dot, y + viewport.pitch, this.look.pixel.line);
      }
    }
  }

  // ------------------------------------------------------------------ words

  label(at, bar, [x0, y0, x1, y1], ink) {
    const em = Math.min(11 * this.viewport.dots, y1 - y0 - this.viewport.dots);
    if (em < 7 * this.viewport.dots || this.silent) return false;
    const left = Math.max(0, x0), right = Math.min(this.viewport.width, x1);
    const fits = (words) => right - left >= em * (0.62 * words.length + 0.3);
    const words = [labelOf(at.plan, bar), letterOf(at.plan, bar)].find(fits);
    const place = [(left + right) / 2, (y0 + y1) / 2];
    if (words) this.labels.set(`${at.row} ${bar}`, [words, ...place, em, ink]);
    return Boolean(words);
  }

  // The causes of the idle stretches between two pixels, where there is room for words.
  idle(at, a, b) {
    const { first, start, end, cause } = at.plan.idle, { lane } = at;
    const { dots, width } = this.viewport, { bars } = this.heights;
    const em = Math.min(11 * dots, bars - dots);
    if (em < 8 * dots || this.silent) return;
    let i = firstAbove(end, this.tick(at, Math.max(0, a)), first[lane], first[lane + 1]);
    for (; i < first[lane + 1] && this.x(at, start[i]) < Math.min(b, width); i++) {
      const left = Math.max(0, this.x(at, start[i])), right = Math.min(width, this.x(at, end[i]));
      const words = at.plan.causes[cause[i]];
      if (right - left >= em * (0.54 * words.length + 0.5)) {
        this.labels.set(`${at.row} idle ${i}`,
          [words, (left + right) / 2, at.y + bars / 2, em, this.look.dim]);
      }
    }
  }

  write() {
    const { pen } = this;
    let size = 0;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const [words, x, y, em, ink] of this.labels.values()) {
      if (em !== size) pen.font = `${size = em}px system-ui, "DejaVu Sans", sans-serif`;
      pen.fillStyle = ink;
      pen.fillText(words, x, y + 0.06 * em);
    }
  }
}

// Ticks between two times of the axis: 1, 2 or 5 times a power of ten of the file's units.
export function axisStep(viewport) {
  const least = 72 * viewport.dots / viewport.scale;
  let step = viewport.plans[0].time;
  while (step > least * 10) step /= 10;
  for (let i = 0; step < least; i++) step *= [2, 2.5, 2][i % 3];
  return step;
}
