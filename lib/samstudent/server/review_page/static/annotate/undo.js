// Undo and redo of actions. An action keeps the tiles that it replaced and the states of the structures before it.

const MAX_ACTIONS = 200;

export class Undo {
  done = [];
  undone = [];
  open = null;

  /** snapshot: function that returns the state beside the masks (plain values); restore: function that sets it. */
  constructor(snapshot, restore) {
    this.snapshot = snapshot;
    this.restore = restore;
  }

  get canUndo() { return this.done.length > 0; }

  get canRedo() { return this.undone.length > 0; }

  /** Begin an action; changes of masks get the returned journal until `commit`. */
  begin(name) {
    this.commit();
    const tiles = new Map(); // mask -> Map(key -> tile before)
    this.open = {
      name, tiles, before: this.snapshot(),
      keep(mask, key, tile) {
        if (!tiles.has(mask)) tiles.set(mask, new Map());
        const kept = tiles.get(mask);
        if (kept.has(key)) return false;
        kept.set(key, tile);
        return true;
      },
    };
    return this.open;
  }

  /** End the action; true if it changed anything. */
  commit() {
    const action = this.open;
    this.open = null;
    if (!action) return false;
    action.after = this.snapshot();
    if (!action.tiles.size && JSON.stringify(action.before) === JSON.stringify(action.after)) return false;
    this.done.push(action);
    if (this.done.length > MAX_ACTIONS) this.done.shift();
    this.undone = [];
    return true;
  }

  /** Take the open action back. */
  cancel() {
    const action = this.open;
    this.open = null;
    if (!action) return;
    exchange(action);
    this.restore(action.before);
  }

  /** Undo the last action; returns its name, or null. */
  undo() {
    return this.move(this.done, this.undone, 'before');
  }

  redo() {
    return this.move(this.undone, this.done, 'after');
  }

  move(from, to, side) {
    this.commit();
    const action = from.pop();
    if (!action) return null;
    exchange(action);
    this.restore(action[side]);
    to.push(action);
    return action.name;
  }

  clear() {
    this.done = [];
    this.undone = [];
    this.open = null;
  }
}

/** Put the kept tiles of an action in place, and keep those that were there. */
function exchange(action) {
  for (const [mask, tiles] of action.tiles) {
    for (const [key, tile] of tiles) {
      tiles.set(key, mask.tiles.get(key));
      mask.restore(key, tile);
    }
  }
}
