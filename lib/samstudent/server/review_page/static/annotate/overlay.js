// Coloured overlay of the masks on the pixels of the screen: lines stay thin at every zoom, and a stroke redraws only its part.

import { blend } from '../masks.js';

/**
 * Pixels of a part of the screen.
 * view: { left, top, scaleU, scaleV } in screen pixels; part: { x, y, width, height } of the screen;
 * layers: [{ mask, colour, fill, line, width, dashed }], from the lowest.
 */
export function overlayImage(plane, view, part, layers) {
  const image = new ImageData(part.width, part.height);
  for (const layer of layers) paintLayer(image, plane, view, part, layer);
  return image;
}

function paintLayer(image, plane, view, part, layer) {
  const extent = layer.mask.extent(), rect = extent && plane.rectOf(extent);
  if (!rect) return;
  const w = layer.width;
  // Screen pixels of the structure in this part, with a margin for its line.
  const left = Math.max(part.x, Math.floor(view.left + rect.u * view.scaleU) - w), right = Math.min(part.x + part.width, Math.ceil(view.left + (rect.u + rect.width) * view.scaleU) + w);
  const top = Math.max(part.y, Math.floor(view.top + rect.v * view.scaleV) - w), bottom = Math.min(part.y + part.height, Math.ceil(view.top + (rect.v + rect.height) * view.scaleV) + w);
  if (right <= left || bottom <= top) return;
  const width = right - left + 2 * w, height = bottom - top + 2 * w;
  const us = indices(left - w, width, view.left, view.scaleU, plane.width), vs = indices(top - w, height, view.top, view.scaleV, plane.height);
  const inside = layer.mask.sample(plane, us.values, vs.values);
  for (let y = w; y < height - w; y += 1) {
    if (!vs.valid[y]) continue;
    for (let x = w, i = y * width + w; x < width - w; x += 1, i += 1) {
      if (!inside[i] || !us.valid[x]) continue;
      const edge = !inside[i - w] || !inside[i + w] || !inside[i - w * width] || !inside[i + w * width]
        || !us.valid[x - w] || !us.valid[x + w] || !vs.valid[y - w] || !vs.valid[y + w];
      const line = edge && !(layer.dashed && ((x + left + y + top) >> 2) & 1);
      const alpha = line ? layer.line : layer.fill;
      if (alpha <= 0) continue;
      blend(image.data, 4 * ((y - w + top - part.y) * image.width + x - w + left - part.x), layer.colour, alpha);
    }
  }
}

/** Pixels of the plane below the centres of screen pixels, and whether they are inside of it. */
function indices(first, count, offset, scale, size) {
  const values = new Int32Array(count), valid = new Uint8Array(count);
  for (let i = 0; i < count; i += 1) {
    const at = Math.floor((first + i + 0.5 - offset) / scale);
    valid[i] = at >= 0 && at < size ? 1 : 0;
    values[i] = Math.max(0, Math.min(size - 1, at));
  }
  return { values, valid };
}
