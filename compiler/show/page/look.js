// The colours of the page as its style has them, light or dark, and those of the bars: as pixels
// for `Raster`, as text for a canvas. Read anew when the light changes.

import { mixed, packed } from "./raster.js";

const NAMES = ["ink", "dim", "soft", "line", "card", "held", "edge", "limit", "chain", "beside"];

export function readLook(plans) {
  const style = getComputedStyle(document.documentElement);
  const pen = document.createElement("canvas").getContext("2d");
  const look = { pixel: {} };
  for (const name of NAMES) {
    pen.fillStyle = style.getPropertyValue(`--${name}`).trim();
    look[name] = pen.fillStyle;
    look.pixel[name] = packed(rgb(pen.fillStyle));
  }
  look.shades = plans.map((plan) => plan.shades.map((one) => shade(one, rgb(look.soft))));
  return look;
}

// A shade's pixels: bright, and faded where something else is looked at.
function shade({ paint, ink, texture }, soft) {
  const line = mixed(paint, ink === "#ffffff" ? [255, 255, 255] : [0, 0, 0], 0.2);
  const faded = (colour) => packed(mixed(colour, soft, 0.8));
  return {
    ink,
    bright: { ground: packed(paint), line: packed(line), texture },
    faded: { ground: faded(paint), line: faded(line), texture },
  };
}

function rgb(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
