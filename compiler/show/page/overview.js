// The overview: all ranks and all of the time, small, with a frame around what the chart shows.
// It is drawn once, as the chart draws what is crowded; only the frame is moved.

import { Chart } from "./chart.js";
import { fit } from "./margins.js";
import { Viewport } from "./viewport.js";

const LANES = 256;  // rows; of more ranks every second, third, … is drawn

export class Overview {
  constructor(canvas, frame, viewport) {
    Object.assign(this, { canvas, frame, viewport });
    this.inner = new Viewport(viewport.plans);
    const every = Math.ceil(this.inner.rows.length / LANES);
    this.inner.rows = this.inner.rows.filter((_, row) => row % every === 0);
    this.inner.headings = () => 0;
    this.inner.plans = viewport.plans.slice(0, 1);
    this.chart = new Chart(canvas, this.inner, true);
  }

  draw(look) {
    const { canvas, inner, chart } = this, dots = this.viewport.dots;
    fit(canvas, dots);
    const { width, height } = canvas;
    Object.assign(inner, { width, height, dots, scale: width / inner.end, left: 0, top: 0 });
    inner.pitch = Math.max(1, Math.floor(height / inner.rows.length));
    chart.look = look;
    chart.resize(width, height);
    chart.draw();
    this.follow();
  }

  follow() {
    const { viewport, frame, canvas, inner } = this;
    const all = viewport.rows.length * viewport.pitch + viewport.headings();
    const tall = Math.min(canvas.clientHeight, inner.rows.length * inner.pitch / viewport.dots);
    const wide = canvas.clientWidth / (viewport.end * viewport.scale);
    const high = tall / all;
    frame.style.left = `${viewport.left * wide}px`;
    frame.style.width = `${Math.max(4, viewport.width * wide)}px`;
    frame.style.top = `${viewport.top * high}px`;
    frame.style.height = `${Math.max(4, Math.min(viewport.height, all) * high)}px`;
  }

  // How far the chart has to move to have a point of the overview in its middle.
  aim(x, y) {
    const { viewport, canvas, inner } = this;
    const all = viewport.rows.length * viewport.pitch + viewport.headings();
    const tall = Math.min(canvas.clientHeight, inner.rows.length * inner.pitch / viewport.dots);
    return [
      x / canvas.clientWidth * viewport.end * viewport.scale - viewport.width / 2 - viewport.left,
      y / tall * all - viewport.height / 2 - viewport.top,
    ];
  }
}
