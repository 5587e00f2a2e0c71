// What every shade, texture, letter and line of the picture stands for.

import { put, byId } from "./dom.js";
import { Raster } from "./raster.js";

const SWATCH = [32, 14];  // width and height in CSS pixels

export function showLegend(plans, look, dots) {
  const list = byId("legend"), seen = new Set();
  list.replaceChildren();
  const entries = plans.flatMap((plan) => plan.shades.map((shade, s) => [plan, shade, s]));
  for (const [plan, shade, s] of entries) {
    if (seen.has(shade.words)) continue;
    seen.add(shade.words);
    const item = put(list, "li"), canvas = swatch(item, dots), pen = canvas.getContext("2d");
    const raster = new Raster(canvas.width, canvas.height, dots), paint = look.shades[plan.index][s];
    const half = canvas.width >> 1;  // with a letter, and where there is no room for one
    raster.fill(0, 0, half, canvas.height, paint.bright.ground);
    raster.textured(half, 0, canvas.width, canvas.height, paint.bright);
    raster.put(pen, 0, 0, canvas.width, canvas.height);
    pen.fillStyle = paint.ink;
    pen.font = `${10 * dots}px system-ui, "DejaVu Sans", sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const letter = shade.pipeline % 2 ? shade.kind.toLowerCase() : shade.kind;
    pen.fillText(letter, half / 2, canvas.height / 2 + dots / 2);
    item.append(shade.words);
  }
  for (const [words, draw] of others(plans, look)) {
    const item = put(list, "li"), canvas = swatch(item, dots), pen = canvas.getContext("2d");
    pen.scale(dots, dots);
    draw(pen);
    item.append(words);
  }
}

function swatch(item, dots) {
  const canvas = put(item, "canvas", null, { width: SWATCH[0] * dots, height: SWATCH[1] * dots });
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function others(plans, look) {
  const [plan] = plans;
  const block = (colour, y = 0, high = SWATCH[1]) => (pen) => {
    pen.fillStyle = colour;
    pen.fillRect(0, y, SWATCH[0], high);
  };
  const mixed = (pen) => {
    plan.shades.slice(0, 3).forEach(({ paint: [r, g, b] }, i) => {
      block(`rgb(${r}, ${g}, ${b})`, 4 * i, 4)(pen);
    });
    block(look.soft, 4 * Math.min(3, plan.shades.length))(pen);
  };
  const found = [
    ["idle", block(look.soft)],
    ["too narrow to draw one by one: shares of the time", mixed],
    ["memory that a rank holds, at most", block(look.edge, 3, 8)],
    ["critical chain", block(look.chain, 6, 2)],
  ];
  const beside = [...new Set(plans.flatMap((one) => one.streams.slice(1)))];
  if (beside.length) {
    found.unshift([`on ${beside.join(", ")}`, (pen) => {
      block(look.soft)(pen);
      for (const y of [3, 8, 13]) block(look.dim, y, 1)(pen);
    }]);
  }
  if (plans.some((one) => one.limits.some((limit) => limit >= 0))) {
    found.splice(found.length - 1, 0, ["its limit", block(look.limit, 6, 2)]);
  }
  if (plans.some((one) => one.beside.start.length)) {
    found.push(["gradients reduced, weights unsharded", block(look.beside, 5, 4)]);
  }
  return found;
}
