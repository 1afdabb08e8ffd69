// Masks of the server on one plane: box and run lengths in canonical orientation, pixels in display orientation.

/** Rectangle of a mask of the server on a plane. */
export function placed({ box: [x, y, , width, height] }, plane) {
  return { u: plane.flipped ? plane.width - x - width : x, v: plane.flipped ? plane.height - y - height : y, width, height };
}

/** Copy a mask of the server into values of a rectangle that contains it. */
export function copyRuns(found, plane, values, rect) {
  const part = placed(found, plane), flat = new Uint8Array(part.width * part.height);
  let position = 0;
  found.runs.forEach((run, i) => {
    if (i % 2) flat.fill(1, position, position + run);
    position += run;
  });
  if (plane.flipped) flat.reverse();
  for (let row = 0; row < part.height; row += 1) values.set(flat.subarray(row * part.width, (row + 1) * part.width), (part.v - rect.v + row) * rect.width + part.u - rect.u);
}

/** Smallest rectangle around the pixels of a mask on a plane, or null. */
export function tightRect(mask, plane) {
  const extent = mask.extent(), rect = extent && plane.rectOf(extent);
  if (!rect) return null;
  const values = mask.read(plane, rect);
  let left = Infinity, right = -1, top = Infinity, bottom = -1;
  for (let i = 0; i < values.length; i += 1) {
    if (!values[i]) continue;
    const x = i % rect.width, y = Math.floor(i / rect.width);
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = y;
  }
  return right < 0 ? null : { u: rect.u + left, v: rect.v + top, width: right - left + 1, height: bottom - top + 1 };
}
