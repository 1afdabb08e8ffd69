// From runs of pixels to a coloured layer over the image.

/** Red, green, blue of structure `index`, always the same: steps of the golden ratio keep neighbours in the list apart. */
export function colour(index) {
  const hue = ((index * 0.618034 + 0.02) % 1) * 6;
  const channel = (shift) => {
    const k = (shift + hue) % 6;
    return Math.round(255 * (1 - 0.75 * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** One byte a pixel, each pixel repeated `factor` times along both sides; `rows`: the first row that has any, and the one after the last. */
function decoded(runs, width, height, factor) {
  const wide = width * factor, mask = new Uint8Array(wide * height * factor);
  let at = 0, inside = 0, first = height, last = 0;
  for (const run of runs) {
    if (inside) {
      for (let from = at; from < at + run;) {
        const y = Math.floor(from / width), x = from - y * width, to = Math.min(at + run, (y + 1) * width);
        const start = y * factor * wide + x * factor;
        for (let k = 0; k < factor; k += 1) mask.fill(1, start + k * wide, start + k * wide + (to - from) * factor);
        first = Math.min(first, y);
        last = y + 1;
        from = to;
      }
    }
    at += run;
    inside ^= 1;
  }
  return { mask, rows: [first * factor, last * factor] };
}

/**
 * Draws one mask into RGBA pixels.
 * style: { colour, fill (0 to 1), line (0 to 1), width (of the line, in pixels), dashed, hatched }
 */
function paint(pixels, { mask, rows }, width, height, style) {
  const [r, g, b] = style.colour;
  const w = style.width;
  for (let y = rows[0]; y < rows[1]; y += 1) {
    for (let x = 0, i = y * width; x < width; x += 1, i += 1) {
      if (!mask[i]) continue;
      const edge = x < w || y < w || x >= width - w || y >= height - w
        || !mask[i - w] || !mask[i + w] || !mask[i - w * width] || !mask[i + w * width];
      let alpha = style.fill;
      if (edge && !(style.dashed && ((x + y) / (4 * w)) & 1)) alpha = Math.max(alpha, style.line);
      else if (style.hatched && (x + y) % (7 * w) >= 2 * w) alpha *= 0.35;
      if (alpha <= 0) continue;
      // Over what other structures have left there: overlaps show both colours.
      const p = 4 * i, below = pixels[p + 3] / 255, sum = alpha + below * (1 - alpha);
      pixels[p] = (r * alpha + pixels[p] * below * (1 - alpha)) / sum;
      pixels[p + 1] = (g * alpha + pixels[p + 1] * below * (1 - alpha)) / sum;
      pixels[p + 2] = (b * alpha + pixels[p + 2] * below * (1 - alpha)) / sum;
      pixels[p + 3] = 255 * sum;
    }
  }
}

/**
 * One layer of all masks of a plane.
 * masks: the server's answer; structures: of the case, in order; scale: pixels of the screen for one of the masks';
 * look: { refined, student, filled, opacity, hidden (Set), marked }; stroke: width of lines on the screen, in pixels
 */
export function layer(masks, structures, look, scale, stroke) {
  const [rows, columns] = masks.size;
  // Coarse masks are drawn finer than they are, so that lines stay thin.
  const factor = Math.max(1, Math.min(Math.round(scale), Math.floor(2048 / Math.max(rows, columns))));
  const width = columns * factor, height = rows * factor;
  const line = Math.max(1, Math.min(6, Math.round((stroke * factor) / scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  structures.forEach((structure, index) => {
    if (look.hidden.has(structure.name)) return;
    const faint = look.marked !== null && look.marked !== structure.name ? 0.25 : 1;
    const base = { colour: colour(index), width: line, line: 0.95 * faint };
    const refined = look.refined && masks.refined[structure.name];
    const student = look.student && masks.student[structure.name];
    const fill = look.filled ? look.opacity * faint : 0;
    const draw = (runs, style) => paint(image.data, decoded(runs, columns, rows, factor), width, height, { ...base, ...style });
    if (refined) draw(refined, { fill, hatched: structure.status === 'rejected' });
    if (student) draw(student, { fill: refined ? 0 : fill, dashed: true });
  });
  context.putImageData(image, 0, 0);
  return canvas;
}
