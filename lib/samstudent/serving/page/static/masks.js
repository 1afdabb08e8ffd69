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

function decoded(runs, length) {
  const mask = new Uint8Array(length);
  let at = 0, inside = 0;
  for (const run of runs) {
    if (inside) mask.fill(1, at, at + run);
    at += run;
    inside ^= 1;
  }
  return mask;
}

/**
 * Draws one mask into RGBA pixels.
 * style: { colour, fill (0 to 1), line (0 to 1), width (of the line, in pixels), dashed, hatched }
 */
function paint(pixels, runs, width, height, style) {
  const mask = decoded(runs, width * height);
  const [r, g, b] = style.colour;
  const w = style.width;
  let at = 0, inside = 0;
  for (const run of runs) {
    if (inside) {
      for (let i = at; i < at + run; i += 1) {
        const x = i % width, y = (i - x) / width;
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
    at += run;
    inside ^= 1;
  }
}

/**
 * One layer of all masks of a plane.
 * masks: the server's answer; structures: of the case, in order; look: { refined, student, filled, opacity, hidden (Set), marked, line }
 */
export function layer(masks, structures, look) {
  const [height, width] = masks.size;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  structures.forEach((structure, index) => {
    if (look.hidden.has(structure.name)) return;
    const faint = look.marked !== null && look.marked !== structure.name ? 0.25 : 1;
    const base = { colour: colour(index), width: look.line };
    const refined = look.refined && masks.refined[structure.name];
    const student = look.student && masks.student[structure.name];
    const fill = look.filled ? look.opacity * faint : 0;
    if (refined) paint(image.data, refined, width, height, { ...base, fill, line: 0.95 * faint, hatched: structure.status === 'rejected' });
    if (student) paint(image.data, student, width, height, { ...base, fill: refined ? 0 : fill, line: 0.95 * faint, dashed: true });
  });
  context.putImageData(image, 0, 0);
  return canvas;
}
