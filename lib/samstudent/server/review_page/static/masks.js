// Coloured overlay of the masks of one plane, from run-length encoded masks.

// Colours of Okabe and Ito, which readers with any colour vision tell apart; further rounds of the list are lighter or darker.
const PALETTE = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
const SHADES = [0, 0.45, -0.3, 0.7];

/** Red, green, blue (0 to 255) of structure `index`. */
export function colour(index) {
  const shade = SHADES[Math.floor(index / PALETTE.length) % SHADES.length];
  return PALETTE[index % PALETTE.length].map((value) => Math.round(shade < 0 ? value * (1 + shade) : value + (255 - value) * shade));
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** Draw a colour with an opacity over the RGBA pixel that begins at p: structures that overlap show both colours. */
export function blend(pixels, p, [r, g, b], alpha) {
  const below = pixels[p + 3] / 255, sum = alpha + below * (1 - alpha);
  pixels[p] = (r * alpha + pixels[p] * below * (1 - alpha)) / sum;
  pixels[p + 1] = (g * alpha + pixels[p + 1] * below * (1 - alpha)) / sum;
  pixels[p + 2] = (b * alpha + pixels[p + 2] * below * (1 - alpha)) / sum;
  pixels[p + 3] = 255 * sum;
}

/**
 * Decode run lengths (background first) into a mask.
 * Returns `mask`: one byte a pixel, enlarged by `factor`; `rows`: first row with pixels of the mask, and last one plus 1.
 */
function decodeRuns(runs, width, height, factor) {
  const fullWidth = width * factor, mask = new Uint8Array(fullWidth * height * factor);
  let position = 0, isMask = 0, first = height, last = 0;
  for (const run of runs) {
    if (isMask) {
      for (let from = position; from < position + run;) {
        const y = Math.floor(from / width), x = from - y * width, to = Math.min(position + run, (y + 1) * width);
        const start = y * factor * fullWidth + x * factor;
        for (let k = 0; k < factor; k += 1) mask.fill(1, start + k * fullWidth, start + k * fullWidth + (to - from) * factor);
        first = Math.min(first, y);
        last = y + 1;
        from = to;
      }
    }
    position += run;
    isMask ^= 1;
  }
  return { mask, rows: [first * factor, last * factor] };
}

/**
 * Draw one mask into RGBA pixels.
 * style: { colour, fill (opacity, 0 to 1), line (opacity, 0 to 1), width (of the line, pixels), dashed, hatched }
 */
function paint(pixels, { mask, rows }, width, height, style) {
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
      blend(pixels, 4 * i, style.colour, alpha);
    }
  }
}

/**
 * Overlay of all masks of a plane, as a canvas.
 * masks: response of the server; structures: structures of the case, in order; scale: screen pixels for one mask pixel;
 * options: { refined, student, filled, opacity, hidden (Set), highlighted }; stroke: width of lines, screen pixels
 */
export function maskOverlay(masks, structures, options, scale, stroke) {
  const [rows, columns] = masks.size;
  // Masks of few pixels are enlarged, so that lines stay thin.
  const factor = Math.max(1, Math.min(Math.round(scale), Math.floor(2048 / Math.max(rows, columns))));
  const width = columns * factor, height = rows * factor;
  const line = Math.max(1, Math.min(6, Math.round((stroke * factor) / scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  structures.forEach((structure, index) => {
    if (options.hidden.has(structure.name)) return;
    const dimming = options.highlighted !== null && options.highlighted !== structure.name ? 0.25 : 1;
    const base = { colour: colour(index), width: line, line: 0.95 * dimming };
    const refined = options.refined && masks.refined[structure.name];
    const student = options.student && masks.student[structure.name];
    const fill = options.filled ? options.opacity * dimming : 0;
    const draw = (runs, style) => paint(image.data, decodeRuns(runs, columns, rows, factor), width, height, { ...base, ...style });
    if (refined) draw(refined, { fill, hatched: structure.status === 'rejected' });
    if (student) draw(student, { fill: refined ? 0 : fill, dashed: true });
  });
  context.putImageData(image, 0, 0);
  return canvas;
}
