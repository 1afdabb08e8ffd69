// Label that is being drawn: masks and states of the structures, the rule of overlap, and undo.

import { Mask, unrecorded } from './mask.js';
import { clipped } from './plane.js';
import { Undo } from './undo.js';

/** States of a structure; `open`: not decided yet. */
export const STATES = { drawn: 'drawn', absent: 'absent', unknown: 'not annotated', open: 'open' };

export class Drawing {
  /** size: [x, y, z] of the image; names: of the structures; overlap: whether they may share pixels. */
  constructor(size, names, overlap) {
    this.size = size;
    this.overlap = overlap;
    this.structures = names.map((name, index) => ({ name, index, mask: new Mask(size), hidden: false, state: 'open', start: 'empty', edited: false, finished: false }));
    this.active = 0;
    this.actions = 0;
    /** Prompts of SAM since the last box: { structure, box, positive, negative }, or null. */
    this.prompts = null;
    this.undo = new Undo(() => this.snapshot(), (state) => this.restore(state));
    /** Called after each change. */
    this.onchange = () => {};
  }

  get current() {
    return this.structures[this.active];
  }

  // ---- actions ----

  /** Run a function as one action, with its journal. */
  act(name, change) {
    change(this.undo.begin(name));
    this.finish();
  }

  /** Begin an action of several steps, e.g. a stroke; ends with `finish` or `undo.cancel`. */
  begin(name) {
    this.journal = this.undo.begin(name);
  }

  finish() {
    if (!this.undo.commit()) return;
    this.actions += 1;
    this.onchange();
  }

  step(direction) {
    const name = direction < 0 ? this.undo.undo() : this.undo.redo();
    if (name === null) return null;
    this.actions += 1;
    this.onchange();
    return name;
  }

  /** Replace the values of a rectangle of the active structure. Pixels of finished structures are kept, others taken over. */
  write(plane, rect, values, journal = this.journal, structure = this.current) {
    if (!this.overlap) this.takeOver(plane, rect, values, journal, structure);
    if (!structure.mask.write(plane, rect, values, journal)) return;
    structure.edited = true;
    this.refreshState(structure);
  }

  takeOver(plane, rect, values, journal, structure) {
    for (const other of this.structures) {
      const extent = other === structure ? null : other.mask.extent();
      const shared = extent && intersection(plane.rectOf(extent), rect);
      if (!shared) continue;
      const theirs = other.mask.read(plane, shared);
      let taken = false;
      for (let y = 0, i = 0; y < shared.height; y += 1) {
        for (let x = 0; x < shared.width; x += 1, i += 1) {
          const at = (shared.v - rect.v + y) * rect.width + shared.u - rect.u + x;
          if (!theirs[i] || !values[at]) continue;
          if (other.finished) values[at] = 0;
          else {
            theirs[i] = 0;
            taken = true;
          }
        }
      }
      if (!taken) continue;
      other.mask.write(plane, shared, theirs, journal);
      other.edited = true;
      this.refreshState(other);
    }
  }

  /** A structure with pixels is drawn; one that lost all is open again. */
  refreshState(structure) {
    if (structure.mask.count) structure.state = 'drawn';
    else if (structure.state === 'drawn') structure.state = 'open';
  }

  /** Change the mask of a structure on a plane by a function of (values, width, height), with a margin around the structure. */
  transform(name, plane, margin, change) {
    const extent = this.current.mask.extent(), part = extent && plane.rectOf(extent);
    if (!part) return;
    const wide = { u: part.u - margin, v: part.v - margin, width: part.width + 2 * margin, height: part.height + 2 * margin };
    const rect = clipped(wide, plane), inner = this.current.mask.read(plane, rect), values = new Uint8Array(wide.width * wide.height);
    copyRect(inner, rect, values, wide);
    change(values, wide.width, wide.height);
    const changed = new Uint8Array(rect.width * rect.height);
    copyRect(values, wide, changed, rect);
    this.act(name, (journal) => this.write(plane, rect, changed, journal));
  }

  clear(structure = this.current) {
    if (!structure.mask.count) return;
    this.act(`clear ${structure.name}`, (journal) => {
      structure.mask.clear(journal);
      structure.edited = true;
      this.refreshState(structure);
    });
  }

  /** Set the state of a structure; its mask is removed if it is absent or not annotated. */
  setState(structure, state) {
    if (state === 'drawn' && !structure.mask.count) return false;
    this.act(`${structure.name}: ${STATES[state]}`, (journal) => {
      if (state === 'absent' || state === 'unknown') structure.mask.clear(journal);
      structure.state = state === 'open' && structure.mask.count ? 'drawn' : state;
    });
    return true;
  }

  /** All open structures are absent. Returns their number. */
  restAbsent() {
    const open = this.structures.filter((structure) => structure.state === 'open');
    if (open.length) this.act('the rest is absent', () => { for (const structure of open) structure.state = 'absent'; });
    return open.length;
  }

  /** Select a structure. */
  select(index) {
    if (index === this.active || !this.structures[index]) return;
    const before = this.current;
    this.active = index;
    this.prompts = null;
    this.protect(before);
  }

  /** A structure that was drawn by hand is finished once another one is selected, where the task forbids overlap. */
  protect(structure) {
    if (structure !== this.current && structure.edited && structure.mask.count && !this.overlap) structure.finished = true;
  }

  /** Take masks of the server for some structures: { name: { state, start, box, runs } }. */
  take(found, names, name) {
    this.act(name, (journal) => {
      const taken = this.structures.filter((structure) => names.includes(structure.name) && found[structure.name]);
      for (const structure of taken) {
        const item = found[structure.name];
        structure.mask.decode(item, journal);
        Object.assign(structure, { start: item.start, edited: false, finished: false });
        structure.state = structure.mask.count ? 'drawn' : item.start === 'label' ? item.state : 'open';
      }
      if (!this.overlap) for (const structure of taken) this.yieldTo(structure, taken, journal);
      this.prompts = null;
    });
  }

  /** Remove from a structure the pixels of others that were not taken with it. */
  yieldTo(structure, taken, journal) {
    for (const other of this.structures) if (!taken.includes(other)) subtract(structure.mask, other.mask, journal);
    this.refreshState(structure);
  }

  // ---- the whole label ----

  snapshot() {
    const structures = this.structures.map(({ state, start, edited, finished }) => ({ state, start, edited, finished }));
    return { structures, prompts: this.prompts && structuredClone({ ...this.prompts, base: undefined }) };
  }

  restore({ structures, prompts }) {
    structures.forEach((state, index) => Object.assign(this.structures[index], state));
    this.prompts = prompts && { ...prompts, base: this.prompts?.base };
  }

  /** Content for the server. */
  encoded(base, seconds) {
    const structures = {};
    for (const { name, state, start, edited, finished, mask } of this.structures) structures[name] = { state, start, edited, finished, ...mask.encoded() };
    return { structures, base, seconds, actions: this.actions };
  }

  /** Replace everything by a draft of the server; it cannot be undone. */
  load(label) {
    const journal = unrecorded();
    for (const structure of this.structures) {
      const found = label.structures[structure.name];
      if (!found) continue;
      structure.mask.decode(found, journal);
      const { state, start, edited = false, finished = false } = found;
      Object.assign(structure, { state, start, edited, finished });
    }
    this.actions = label.actions ?? 0;
    this.undo.clear();
  }

  get open() {
    return this.structures.filter((structure) => structure.state === 'open');
  }
}

function intersection(a, b) {
  if (!a) return null;
  const u = Math.max(a.u, b.u), v = Math.max(a.v, b.v);
  const width = Math.min(a.u + a.width, b.u + b.width) - u, height = Math.min(a.v + a.height, b.v + b.height) - v;
  return width > 0 && height > 0 ? { u, v, width, height } : null;
}

/** Copy the common part of two rectangles of values. */
function copyRect(from, fromRect, to, toRect) {
  const part = intersection(fromRect, toRect);
  if (!part) return;
  for (let y = 0; y < part.height; y += 1) {
    const source = (part.v - fromRect.v + y) * fromRect.width + part.u - fromRect.u;
    to.set(from.subarray(source, source + part.width), (part.v - toRect.v + y) * toRect.width + part.u - toRect.u);
  }
}

/** Remove from a mask the pixels of another. */
function subtract(mask, other, journal) {
  for (const [key, theirs] of other.tiles) {
    const ours = mask.tiles.get(key);
    if (!ours || !ours.some((value, i) => value && theirs[i])) continue;
    const own = mask.ownTile(key, journal);
    for (let i = 0; i < own.length; i += 1) {
      if (own[i] && theirs[i]) {
        own[i] = 0;
        mask.count -= 1;
      }
    }
    mask.version += 1;
  }
}
