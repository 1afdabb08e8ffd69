// Pixels of a plane at several resolutions, drawn with a window (values that become black and white).

const MAX_LEVELS = 6;

export class Picture {
  /** values: Uint8Array or Uint16Array in display orientation; colour: three values a pixel. */
  constructor(values, width, height, colour) {
    this.levels = [{ values, width, height }];
    this.colour = colour;
    this.depth = values instanceof Uint8Array ? 256 : 65536;
    this.table = new Uint32Array(this.depth);
    this.grey = new Uint8Array(this.depth);
  }

  /** Values `low` to `high` become black to white, or white to black. */
  setWindow(low, high, inverted) {
    const span = Math.max(high - low, 1e-6);
    for (let value = 0; value < this.depth; value += 1) {
      const share = Math.max(0, Math.min(1, (value - low) / span)), grey = Math.round(255 * (inverted ? 1 - share : share));
      this.grey[value] = grey;
      this.table[value] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
    }
  }

  /** Level whose pixels are not larger than those of the screen; scale: screen pixels for a pixel of the plane. */
  levelFor(scale) {
    const wanted = Math.max(0, Math.min(MAX_LEVELS - 1, Math.floor(Math.log2(1 / Math.max(scale, 1e-6)) + 0.25)));
    while (this.levels.length <= wanted && Math.min(this.levels.at(-1).width, this.levels.at(-1).height) > 32) this.levels.push(this.halved(this.levels.at(-1)));
    return Math.min(wanted, this.levels.length - 1);
  }

  halved({ values, width, height }) {
    const w = width >> 1, h = height >> 1, step = this.colour ? 3 : 1, half = new values.constructor(w * h * step), row = width * step;
    for (let y = 0, i = 0; y < h; y += 1) {
      for (let x = 0; x < w; x += 1) {
        for (let c = 0; c < step; c += 1, i += 1) {
          const p = 2 * y * row + 2 * x * step + c;
          half[i] = (values[p] + values[p + step] + values[p + row] + values[p + row + step] + 2) >> 2;
        }
      }
    }
    return { values: half, width: w, height: h };
  }

  /** Windowed pixels of a rectangle { x, y, width, height } of a level. */
  region(level, rect) {
    const { values, width } = this.levels[level], image = new ImageData(rect.width, rect.height);
    const out = new Uint32Array(image.data.buffer), { table, grey } = this;
    for (let y = 0, i = 0; y < rect.height; y += 1) {
      let p = (rect.y + y) * width + rect.x;
      if (this.colour) {
        p *= 3;
        for (let x = 0; x < rect.width; x += 1, i += 1, p += 3) out[i] = (0xff000000 | (grey[values[p + 2]] << 16) | (grey[values[p + 1]] << 8) | grey[values[p]]) >>> 0;
      } else for (let x = 0; x < rect.width; x += 1, i += 1, p += 1) out[i] = table[values[p]];
    }
    return image;
  }
}
