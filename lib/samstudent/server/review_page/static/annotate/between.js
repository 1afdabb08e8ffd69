// Slices of a volume from others: interpolation between drawn slices, and propagation to the neighbouring ones by SAM.

import { clipped, union } from './plane.js';
import { copyRuns, placed, tightRect } from './runs.js';

const STEPS = 10; // slices of one propagation
const MARGIN = 0.06; // of the box around the slice before, for the next one
const LEAST_DICE = 0.5; // with the slice before; below it, SAM has lost the structure

/**
 * Fill the slices of a structure that lie between drawn ones, by interpolation of signed distances.
 * planeAt: function of an index; count: number of slices. Returns the number of filled slices.
 */
export function interpolate(drawing, planeAt, count) {
  const { mask, name } = drawing.current, rects = Array.from({ length: count }, (_, index) => tightRect(mask, planeAt(index)));
  const drawn = [...rects.keys()].filter((index) => rects[index]), gaps = drawn.slice(1).map((to, i) => [drawn[i], to]).filter(([from, to]) => to - from > 1);
  if (!gaps.length) return 0;
  let filled = 0;
  drawing.act(`interpolate ${name}`, (journal) => {
    for (const [from, to] of gaps) {
      const around = union(rects[from], rects[to]), plane = planeAt(from);
      const rect = clipped({ u: around.u - 1, v: around.v - 1, width: around.width + 2, height: around.height + 2 }, plane);
      const a = signedDistance(mask.read(plane, rect), rect, plane.aspect), b = signedDistance(mask.read(planeAt(to), rect), rect, plane.aspect);
      for (let index = from + 1; index < to; index += 1) {
        const share = (index - from) / (to - from);
        drawing.write(planeAt(index), rect, Uint8Array.from(a, (value, i) => ((1 - share) * value + share * b[i] > 0 ? 1 : 0)), journal);
        filled += 1;
      }
    }
  });
  return filled;
}

/**
 * Draw a structure on the slices after `index` in a direction, each by SAM in the box of the slice before.
 * ask: async function of (plane, box) that returns the mask of the server. Returns the number of slices, and why it ended.
 */
export async function propagate(drawing, planeAt, count, index, direction, ask) {
  const structure = drawing.current, { mask } = structure, found = [];
  let rect = tightRect(mask, planeAt(index)), before = rect && { rect, values: mask.read(planeAt(index), rect) }, reason = '';
  if (!rect) return { slices: 0, reason: `${structure.name} is not on this slice` };
  for (let at = index + direction; !reason && found.length < STEPS; at += direction) {
    if (at < 0 || at >= count) reason = 'end of the volume';
    else if (tightRect(mask, planeAt(at))) reason = 'the next slice is drawn already';
    else {
      const plane = planeAt(at), answer = await ask(plane, widened(rect, plane)), next = answer.box && valuesOf(answer, plane);
      if (!next || dice(before, next) < LEAST_DICE) reason = 'SAM does not find it further';
      else {
        found.push({ plane, ...next });
        before = next;
        rect = next.rect;
      }
    }
  }
  if (found.length) drawing.act(`propagate ${structure.name}`, (journal) => { for (const { plane, rect: part, values } of found) drawing.write(plane, part, values, journal, structure); });
  return { slices: found.length, reason };
}

function widened({ u, v, width, height }, plane) {
  const x = Math.max(1, MARGIN * width), y = Math.max(1, MARGIN * height);
  return [Math.max(0, u - x), Math.max(0, v - y), Math.min(plane.width - 1, u + width - 1 + x), Math.min(plane.height - 1, v + height - 1 + y)];
}

function valuesOf(answer, plane) {
  const rect = placed(answer, plane), values = new Uint8Array(rect.width * rect.height);
  copyRuns(answer, plane, values, rect);
  return { rect, values };
}

/** Dice of two masks { rect, values } on planes of one size. */
function dice(a, b) {
  let shared = 0, total = 0;
  const sum = (values) => values.reduce((count, value) => count + value, 0);
  for (let y = 0, i = 0; y < a.rect.height; y += 1) {
    for (let x = 0; x < a.rect.width; x += 1, i += 1) {
      const u = a.rect.u + x - b.rect.u, v = a.rect.v + y - b.rect.v;
      if (a.values[i] && u >= 0 && v >= 0 && u < b.rect.width && v < b.rect.height) shared += b.values[v * b.rect.width + u];
    }
  }
  total = sum(a.values) + sum(b.values);
  return total ? (2 * shared) / total : 0;
}

/** Distance to the border, positive inside; rows are `aspect` apart. */
function signedDistance(values, { width, height }, aspect) {
  const outside = distances(values, width, height, 0, aspect), inside = distances(values, width, height, 1, aspect);
  return outside.map((value, i) => Math.sqrt(value) - Math.sqrt(inside[i]));
}

/** Squared distance of each pixel to the nearest one with the value `of` (Felzenszwalb and Huttenlocher, 2012). */
function distances(values, width, height, of, aspect) {
  const squares = Float64Array.from(values, (value) => (value === of ? 0 : 1e12));
  const line = new Float64Array(Math.max(width, height));
  for (let x = 0; x < width; x += 1) transform(squares, x, width, height, aspect, line);
  for (let y = 0; y < height; y += 1) transform(squares, y * width, 1, width, 1, line);
  return squares;
}

/** Distance transform of one row or column: lower envelope of parabolas. */
function transform(squares, first, stride, count, step, line) {
  const vertex = new Int32Array(count), border = new Float64Array(count + 1);
  let last = 0;
  border[0] = -Infinity;
  border[1] = Infinity;
  const value = (i) => squares[first + i * stride], place = (i) => i * step;
  for (let i = 1; i < count; i += 1) {
    let crossing;
    do {
      const k = vertex[last];
      crossing = (value(i) + place(i) ** 2 - value(k) - place(k) ** 2) / (2 * (place(i) - place(k)));
    } while (crossing <= border[last] && (last -= 1) >= 0);
    last += 1;
    vertex[last] = i;
    border[last] = crossing;
    border[last + 1] = Infinity;
  }
  for (let i = 0, k = 0; i < count; i += 1) {
    while (border[k + 1] < place(i)) k += 1;
    line[i] = (place(i) - place(vertex[k])) ** 2 + value(vertex[k]);
  }
  for (let i = 0; i < count; i += 1) squares[first + i * stride] = line[i];
}
