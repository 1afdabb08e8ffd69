// Mask of one structure: tiles that exist only where it has pixels. A tile is copied before its first change in an action,
// so that undo keeps the earlier tiles, not copies of the image.

const BITS = 7, SIDE = 1 << BITS, LAST = SIDE - 1;

export class Mask {
  /** size: [x, y, z] of the image. */
  constructor(size) {
    this.size = size;
    this.columns = Math.ceil(size[0] / SIDE);
    this.rows = Math.ceil(size[1] / SIDE);
    this.tiles = new Map();
    this.count = 0; // pixels of the structure
    this.version = 0; // changes with every change of a pixel
  }

  /** Mask of the same size with other tiles, for reading. */
  with(tiles) {
    return Object.assign(new Mask(this.size), { tiles });
  }

  /** Values at the crossings of columns `us` and rows `vs` (pixels of the plane, inside of it): one byte each. */
  sample(plane, us, vs) {
    const values = new Uint8Array(us.length * vs.length);
    if (!this.tiles.size) return values;
    const [ox, oy, oz] = plane.origin, [ux, uy, uz] = plane.du, [vx, vy, vz] = plane.dv;
    let key = -1, tile, i = 0;
    for (const v of vs) {
      const bx = ox + v * vx, by = oy + v * vy, bz = oz + v * vz;
      for (let column = 0; column < us.length; column += 1, i += 1) {
        const u = us[column], x = bx + u * ux, y = by + u * uy, z = bz + u * uz;
        const found = (z * this.rows + (y >> BITS)) * this.columns + (x >> BITS);
        if (found !== key) {
          key = found;
          tile = this.tiles.get(key);
        }
        if (tile) values[i] = tile[((y & LAST) << BITS) | (x & LAST)];
      }
    }
    return values;
  }

  /** Values of a rectangle of the plane, row by row. */
  read(plane, rect) {
    return this.sample(plane, range(rect.u, rect.width), range(rect.v, rect.height));
  }

  /** Replace the values of a rectangle; `journal.keep(mask, key, tile)` is called before the first change of a tile. */
  write(plane, rect, values, journal) {
    const [ox, oy, oz] = plane.origin, [ux, uy, uz] = plane.du, [vx, vy, vz] = plane.dv;
    let key = -1, tile, own = false, i = 0, changed = 0;
    for (let v = rect.v; v < rect.v + rect.height; v += 1) {
      for (let u = rect.u; u < rect.u + rect.width; u += 1, i += 1) {
        const x = ox + u * ux + v * vx, y = oy + u * uy + v * vy, z = oz + u * uz + v * vz;
        const found = (z * this.rows + (y >> BITS)) * this.columns + (x >> BITS);
        if (found !== key) {
          key = found;
          tile = this.tiles.get(key);
          own = false;
        }
        const at = ((y & LAST) << BITS) | (x & LAST), value = values[i];
        if ((tile ? tile[at] : 0) === value) continue;
        if (!own) {
          tile = this.ownTile(key, journal);
          own = true;
        }
        tile[at] = value;
        changed += 1;
        this.count += value ? 1 : -1;
      }
    }
    if (changed) this.version += 1;
    return changed;
  }

  /** Tile that may be changed: a copy, once in an action. */
  ownTile(key, journal) {
    const tile = this.tiles.get(key);
    if (!journal.keep(this, key, tile) && tile) return tile;
    const copy = tile ? tile.slice() : new Uint8Array(SIDE * SIDE);
    this.tiles.set(key, copy);
    return copy;
  }

  /** Put a tile of the journal in place; undefined: none. */
  restore(key, tile) {
    const before = this.tiles.get(key);
    this.count += sum(tile) - sum(before);
    if (tile) this.tiles.set(key, tile);
    else this.tiles.delete(key);
    this.version += 1;
  }

  clear(journal) {
    for (const key of [...this.tiles.keys()]) {
      journal.keep(this, key, this.tiles.get(key));
      this.tiles.delete(key);
    }
    this.count = 0;
    this.version += 1;
  }

  /** Box of voxels around all tiles, { from, to } (inclusive), or null; larger than the structure by less than a tile. */
  extent() {
    if (this.extentVersion === this.version) return this.found;
    this.extentVersion = this.version;
    this.found = null;
    for (const key of this.tiles.keys()) {
      const column = key % this.columns, row = Math.floor(key / this.columns) % this.rows, z = Math.floor(key / (this.columns * this.rows));
      const from = [column * SIDE, row * SIDE, z];
      const to = [Math.min(from[0] + LAST, this.size[0] - 1), Math.min(from[1] + LAST, this.size[1] - 1), z];
      if (!this.found) this.found = { from, to };
      else for (const i of [0, 1, 2]) {
        this.found.from[i] = Math.min(this.found.from[i], from[i]);
        this.found.to[i] = Math.max(this.found.to[i], to[i]);
      }
    }
    return this.found;
  }

  /** { box, runs } for the server; the same object until the mask changes. */
  encoded() {
    if (this.encodedVersion !== this.version) {
      this.encodedVersion = this.version;
      this.code = this.encode();
    }
    return this.code;
  }

  encode() {
    const box = this.bounds();
    if (!box) return { box: null, runs: [] };
    const size = [0, 1, 2].map((i) => box.to[i] - box.from[i] + 1), runs = [];
    let value = 0, run = 0;
    for (let z = box.from[2]; z <= box.to[2]; z += 1) {
      for (let y = box.from[1]; y <= box.to[1]; y += 1) {
        for (let x = box.from[0]; x <= box.to[0];) {
          const tile = this.tiles.get((z * this.rows + (y >> BITS)) * this.columns + (x >> BITS));
          const end = Math.min(box.to[0] + 1, ((x >> BITS) + 1) << BITS), row = (y & LAST) << BITS;
          for (; x < end; x += 1) {
            const here = tile ? tile[row | (x & LAST)] : 0;
            if (here !== value) {
              runs.push(run);
              run = 0;
              value = here;
            }
            run += 1;
          }
        }
      }
    }
    runs.push(run);
    return { box: [...box.from, ...size], runs };
  }

  /** Smallest box around the structure, { from, to } (inclusive), or null. */
  bounds() {
    if (this.boundsVersion !== this.version) {
      this.boundsVersion = this.version;
      this.smallest = this.findBounds();
    }
    return this.smallest;
  }

  findBounds() {
    let box = null;
    for (const [key, tile] of this.tiles) {
      const left = (key % this.columns) * SIDE, top = (Math.floor(key / this.columns) % this.rows) * SIDE;
      const z = Math.floor(key / (this.columns * this.rows));
      for (let i = 0; i < tile.length; i += 1) {
        if (!tile[i]) continue;
        const x = left + (i & LAST), y = top + (i >> BITS);
        if (!box) box = { from: [x, y, z], to: [x, y, z] };
        else {
          box.from = [Math.min(box.from[0], x), Math.min(box.from[1], y), Math.min(box.from[2], z)];
          box.to = [Math.max(box.to[0], x), Math.max(box.to[1], y), Math.max(box.to[2], z)];
        }
      }
    }
    return box;
  }

  /** Replace the mask by one of the server. */
  decode({ box, runs }, journal) {
    this.clear(journal);
    if (!box) return;
    const [x0, y0, z0, width, height] = box;
    let position = 0, inside = false;
    for (const run of runs) {
      if (inside) {
        for (let from = position; from < position + run;) {
          const row = Math.floor(from / width), x = from - row * width, to = Math.min(position + run, (row + 1) * width);
          this.fillRow(x0 + x, y0 + (row % height), z0 + Math.floor(row / height), to - from, journal);
          from = to;
        }
      }
      position += run;
      inside = !inside;
    }
    this.version += 1;
  }

  fillRow(x, y, z, length, journal) {
    for (let from = x; from < x + length;) {
      const end = Math.min(x + length, ((from >> BITS) + 1) << BITS), row = (y & LAST) << BITS;
      const tile = this.ownTile((z * this.rows + (y >> BITS)) * this.columns + (from >> BITS), journal);
      tile.fill(1, row | (from & LAST), (row | ((end - 1) & LAST)) + 1);
      this.count += end - from;
      from = end;
    }
  }
}

/** Journal of changes that are not undone. */
export const unrecorded = () => {
  const kept = new Set();
  return { keep: (mask, key) => !kept.has(key) && kept.add(key) };
};

export const range = (first, count) => Int32Array.from({ length: count }, (_, i) => first + i);

function sum(tile) {
  let total = 0;
  if (tile) for (const value of tile) total += value;
  return total;
}
