// `Raster`: rectangles and textures written straight into pixels, some hundred thousand in a few
// milliseconds, where a canvas takes as long for some thousand. Coordinates are device pixels.

// What lies over a kind's colour for those who do not see it: whether the pixel has a line.
const TEXTURES = {
  rising: (x, y, d) => (x + y) % (6 * d) < d,
  falling: (x, y, d) => (x - y + 6000 * d) % (6 * d) < d,
  dots: (x, y, d) => x % (4 * d) < d && (y + (x / (4 * d) & 1) * 2 * d) % (4 * d) < d,
};

export class Raster {
  constructor(width, height, dots) {
    this.width = width;
    this.height = height;
    this.dots = Math.max(1, Math.round(dots));
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  fill(x0, y0, x1, y1, colour) {
    const left = Math.max(0, x0), right = Math.min(this.width, x1);
    if (left >= right) return;
    for (let y = Math.max(0, y0); y < Math.min(this.height, y1); y++) {
      this.pixels.fill(colour, y * this.width + left, y * this.width + right);
    }
  }

  // A rectangle with a texture that begins at its corner, so that it moves with it.
  textured(x0, y0, x1, y1, { ground, line, texture }) {
    this.fill(x0, y0, x1, y1, ground);
    const has = TEXTURES[texture];
    if (!has) return;
    const left = Math.max(0, x0), right = Math.min(this.width, x1);
    for (let y = Math.max(0, y0); y < Math.min(this.height, y1); y++) {
      for (let x = left; x < right; x++) {
        if (has(x - x0, y - y0, this.dots)) this.pixels[y * this.width + x] = line;
      }
    }
  }

  // Lines across a rectangle: what runs on another stream than the first.
  ruled(x0, y0, x1, y1, line) {
    const { dots } = this;
    for (let y = y0 + 3 * dots; y < y1; y += 5 * dots) this.fill(x0, y, x1, Math.min(y + dots, y1), line);
  }

  put(pen, x0, y0, x1, y1) {
    const left = Math.max(0, x0), top = Math.max(0, y0);
    const width = Math.min(this.width, x1) - left, height = Math.min(this.height, y1) - top;
    if (width > 0 && height > 0) pen.putImageData(this.image, 0, 0, left, top, width, height);
  }
}

// A colour as `Raster` writes it: [red, green, blue] from 0 to 255.
export function packed([red, green, blue]) {
  return (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
}

export function mixed(one, other, share) {
  return one.map((part, i) => Math.round(part * (1 - share) + other[i] * share));
}

// Pixels in one, by their shares; what is left of the whole is `rest`.
export function blend(parts, rest) {
  const left = parts.reduce((sum, [, share]) => sum - share, 1);
  const sum = [0, 8, 16].map((bits) => [...parts, [rest, Math.max(0, left)]]
    .reduce((so, [pixel, share]) => so + share * (pixel >>> bits & 255), 0));
  return packed(sum.map((part) => Math.min(255, Math.round(part))));
}
