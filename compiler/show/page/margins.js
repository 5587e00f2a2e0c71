// What stands around the rows and stays in sight: the times above, the ranks on the left, and on
// the right how much of its limit each rank's memory takes.

import { axisStep } from "./chart.js";
import { NONE } from "./model.js";
import { mark, size } from "./words.js";

const GAUGE = 46, LEAST = 20;  // CSS pixels

export class Margins {
  constructor({ axis, names, peaks }, viewport) {
    Object.assign(this, { axis, names, peaks, viewport });
  }

  drawAxis(look) {
    const { viewport } = this, { dots } = viewport, unit = viewport.plans[0].time;
    const pen = fresh(this.axis, dots), step = axisStep(viewport);
    pen.textAlign = "center";
    pen.font = font(10.5, dots);
    const bottom = this.axis.height;
    for (let k = Math.ceil(viewport.tick(0) / step); k * step <= viewport.tick(viewport.width);
      k++) {
      const x = viewport.x(k * step), words = mark(k * step / unit, step / unit);
      const half = pen.measureText(words).width / 2;
      pen.fillStyle = look.line;
      pen.fillRect(x, bottom - 5 * dots, Math.max(1, dots | 0), 5 * dots);
      pen.fillStyle = look.dim;
      pen.fillText(words, Math.min(Math.max(x, half), viewport.width - half), bottom - 12 * dots);
    }
  }

  drawRanks(look) {
    const { viewport } = this, { dots, pitch } = viewport, { bars } = viewport.heights();
    const names = fresh(this.names, dots), peaks = fresh(this.peaks, dots);
    const [first, last] = viewport.shownRows();
    const every = [1, 2, 5, 10, 20, 50, 100, 1000].find((n) => n * pitch >= 11 * dots) ?? 10000;
    const em = Math.min(11, Math.max(8.5, bars / dots));
    names.font = peaks.font = font(em, dots);
    names.textAlign = peaks.textAlign = "right";
    Object.assign(this, this.beside(peaks));
    for (let row = first; row < last; row++) {
      const { plan, lane } = viewport.rows[row], [rank, stream] = plan.lanes[lane];
      const y = viewport.rowTop(row), told = rank % every === 0 || last - first < 3;
      const middle = y + bars / 2;
      if (told) {
        names.fillStyle = stream ? look.dim : look.ink;
        names.fillText(stream ? plan.streams[stream] : `rank ${rank}`,
          this.names.width - 8 * dots, middle);
      }
      if (!stream) this.gauge(peaks, look, plan, rank, y, bars, told);
      if (viewport.plans.length > 1 && (row === 0 || lane === 0)) {
        names.fillStyle = look.ink;
        names.fillText(plan.schedule, this.names.width - 8 * dots, y - 9 * dots);
      }
    }
  }

  // How wide gauges are beside the longest words, and whether these name the limit: sizes with a
  // unit are longer than counts.
  beside(pen) {
    const { dots, plans } = this.viewport, all = this.peaks.width - 22 * dots;
    for (const full of [true, false]) {
      const words = plans.flatMap((plan) => plan.peaks.map((_, rank) => held(plan, rank, full)));
      const wide = all - Math.max(...[...new Set(words)].map((one) => pen.measureText(one).width));
      if (wide >= LEAST * dots || !full) {
        return { full, wide: Math.min(GAUGE * dots, Math.max(wide, LEAST * dots)) };
      }
    }
  }

  // The rank's peak as a part of its limit; where nothing is limited, of the largest peak.
  gauge(pen, look, plan, rank, y, bars, told) {
    const { wide, viewport: { dots } } = this, left = 8 * dots;
    const limit = plan.limits[rank] ?? NONE, whole = limit === NONE ? plan.most : limit;
    const height = Math.max(1, Math.min(bars, 8 * dots)), top = y + (bars - height) / 2;
    pen.fillStyle = look.soft;
    pen.fillRect(left, top, wide, height);
    pen.fillStyle = look.edge;
    pen.fillRect(left, top, whole ? wide * plan.peaks[rank] / whole : 0, height);
    if (limit !== NONE) {
      pen.fillStyle = look.limit;
      pen.fillRect(left + wide - dots, top - dots, 2 * dots, height + 2 * dots);
    }
    if (!told) return;
    pen.fillStyle = look.dim;
    pen.fillText(held(plan, rank, this.full), this.peaks.width - 8 * dots, y + bars / 2);
  }
}

// What a rank holds at most, and if asked for of how much.
function held(plan, rank, full) {
  const limit = plan.limits[rank] ?? NONE, words = size(plan, plan.peaks[rank]);
  return limit === NONE || !full ? words : `${words} of ${size(plan, limit)}`;
}

export function fit(canvas, dots) {
  canvas.width = Math.round(canvas.clientWidth * dots);
  canvas.height = Math.round(canvas.clientHeight * dots);
}

function fresh(canvas) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.textBaseline = "middle";
  return pen;
}

function font(em, dots) { return `${em * dots}px system-ui, "DejaVu Sans", sans-serif`; }
