// Plane of an image: its pixels (u, v), in display orientation, and their voxels (x, y, z) in canonical orientation.

const AXES = 'xyz';

export class Plane {
  /**
   * size, spacing: of the image, [x, y, z] (z: 1 for a single image); axis: 'z', 'y' or 'x', null for a single image;
   * index: of the plane along the axis.
   */
  constructor(size, spacing, axis, index) {
    this.axis = axis;
    this.index = index;
    const across = axis ?? 'z';
    const [u, v] = [...AXES].filter((name) => name !== across).map((name) => AXES.indexOf(name));
    this.width = size[u];
    this.height = size[v];
    /** Height of a pixel relative to its width. */
    this.aspect = spacing[v] / spacing[u];
    // Canonical axes of a volume increase to the patient's right, front and head, opposite to the picture.
    this.flipped = axis !== null;
    const direction = this.flipped ? -1 : 1;
    this.origin = [0, 0, 0];
    this.origin[AXES.indexOf(across)] = axis === null ? 0 : index;
    if (this.flipped) {
      this.origin[u] = size[u] - 1;
      this.origin[v] = size[v] - 1;
    }
    this.du = [0, 0, 0];
    this.dv = [0, 0, 0];
    this.du[u] = direction;
    this.dv[v] = direction;
    this.axes = [u, v];
  }

  /** The whole plane. */
  get rect() {
    return { u: 0, v: 0, width: this.width, height: this.height };
  }

  /** Point of the plane in the orientation of the server, and back: the two are the same. */
  mirrored(u, v) {
    return this.flipped ? [this.width - 1 - u, this.height - 1 - v] : [u, v];
  }

  /** Part of the plane that a box of voxels, { from, to } (inclusive), covers; null: none. */
  rectOf(box) {
    const across = 3 - this.axes[0] - this.axes[1];
    if (this.axis !== null && (this.index < box.from[across] || this.index > box.to[across])) return null;
    const [a, b] = this.mirrored(box.from[this.axes[0]], box.from[this.axes[1]]);
    const [c, d] = this.mirrored(box.to[this.axes[0]], box.to[this.axes[1]]);
    return clipped({ u: Math.min(a, c), v: Math.min(b, d), width: Math.abs(c - a) + 1, height: Math.abs(d - b) + 1 }, this);
  }
}

/** Part of a rectangle in a plane, in whole pixels; null: none. */
export function clipped(rect, plane) {
  const u = Math.max(0, Math.floor(rect.u)), v = Math.max(0, Math.floor(rect.v));
  const right = Math.min(plane.width, Math.ceil(rect.u + rect.width)), bottom = Math.min(plane.height, Math.ceil(rect.v + rect.height));
  return right > u && bottom > v ? { u, v, width: right - u, height: bottom - v } : null;
}

/** Smallest rectangle around two; each may be null. */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  const u = Math.min(a.u, b.u), v = Math.min(a.v, b.v);
  return { u, v, width: Math.max(a.u + a.width, b.u + b.width) - u, height: Math.max(a.v + a.height, b.v + b.height) - v };
}
