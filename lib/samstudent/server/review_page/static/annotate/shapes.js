// Shapes on small masks, one byte a pixel, row by row: brush strokes, polygons, filled holes, smoothing.

/** Rectangle of a stroke from a to b (points { u, v }) of a radius, in whole pixels. */
export function strokeRect(a, b, radius) {
  const u = Math.floor(Math.min(a.u, b.u) - radius), v = Math.floor(Math.min(a.v, b.v) - radius);
  return { u, v, width: Math.ceil(Math.max(a.u, b.u) + radius) - u + 1, height: Math.ceil(Math.max(a.v, b.v) + radius) - v + 1 };
}

/** Set the pixels of `rect` whose centres are nearer to the line from a to b than the radius; aspect: height of a pixel. */
export function paintStroke(values, rect, a, b, radius, value, aspect = 1) {
  const du = b.u - a.u, dv = (b.v - a.v) * aspect, length = du * du + dv * dv, limit = radius * radius;
  for (let row = 0, i = 0; row < rect.height; row += 1) {
    const v = (rect.v + row - a.v) * aspect;
    for (let column = 0; column < rect.width; column += 1, i += 1) {
      const u = rect.u + column - a.u;
      const t = length ? Math.max(0, Math.min(1, (u * du + v * dv) / length)) : 0;
      const x = u - t * du, y = v - t * dv;
      if (x * x + y * y <= limit) values[i] = value;
    }
  }
}

/** Rectangle around a polygon (points { u, v }), in whole pixels. */
export function polygonRect(points) {
  const us = points.map((point) => point.u), vs = points.map((point) => point.v);
  const u = Math.floor(Math.min(...us)), v = Math.floor(Math.min(...vs));
  return { u, v, width: Math.ceil(Math.max(...us)) - u + 1, height: Math.ceil(Math.max(...vs)) - v + 1 };
}

/** Set the pixels of `rect` whose centres are inside of a polygon (even-odd rule). */
export function fillPolygon(values, rect, points, value) {
  for (let row = 0; row < rect.height; row += 1) {
    const v = rect.v + row, crossings = [];
    points.forEach((from, i) => {
      const to = points[(i + 1) % points.length];
      if ((from.v <= v) !== (to.v <= v)) crossings.push(from.u + ((v - from.v) / (to.v - from.v)) * (to.u - from.u));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.max(0, Math.ceil(crossings[i]) - rect.u), last = Math.min(rect.width - 1, Math.floor(crossings[i + 1]) - rect.u);
      if (last >= first) values.fill(value, row * rect.width + first, row * rect.width + last + 1);
    }
  }
}

/** Fill the regions that are not connected to the border, which must be outside of the structure. */
export function fillHoles(values, width, height) {
  const outside = new Uint8Array(values.length), stack = [0];
  outside[0] = 1;
  while (stack.length) {
    const i = stack.pop(), x = i % width;
    for (const next of [x > 0 ? i - 1 : -1, x < width - 1 ? i + 1 : -1, i - width, i + width]) {
      if (next >= 0 && next < values.length && !outside[next] && !values[next]) {
        outside[next] = 1;
        stack.push(next);
      }
    }
  }
  for (let i = 0; i < values.length; i += 1) values[i] = outside[i] ? 0 : 1;
}

/** Smooth the border: mean over squares of 2 radius + 1 pixels, twice, at least one half. */
export function smooth(values, width, height, radius) {
  let means = Float32Array.from(values);
  for (let pass = 0; pass < 2; pass += 1) {
    means = meanOfRows(means, width, height, radius);
    means = meanOfColumns(means, width, height, radius);
  }
  for (let i = 0; i < values.length; i += 1) values[i] = means[i] >= 0.5 ? 1 : 0;
}

function meanOfRows(values, width, height, radius) {
  const means = new Float32Array(values.length), size = 2 * radius + 1;
  for (let y = 0; y < height; y += 1) {
    const row = y * width;
    let total = 0;
    for (let x = -radius; x < width; x += 1) {
      if (x + radius < width) total += values[row + x + radius];
      if (x - radius - 1 >= 0) total -= values[row + x - radius - 1];
      if (x >= 0) means[row + x] = total / size;
    }
  }
  return means;
}

function meanOfColumns(values, width, height, radius) {
  const means = new Float32Array(values.length), size = 2 * radius + 1, totals = new Float32Array(width);
  for (let y = -radius; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (y + radius < height) totals[x] += values[(y + radius) * width + x];
      if (y - radius - 1 >= 0) totals[x] -= values[(y - radius - 1) * width + x];
      if (y >= 0) means[y * width + x] = totals[x] / size;
    }
  }
  return means;
}
