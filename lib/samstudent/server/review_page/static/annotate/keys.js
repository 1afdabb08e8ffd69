// Keyboard of the tab Annotate.

export const SHORTCUTS = [
  ['j', 'next case by the strategy'], ['k', 'skip: next case, a draft stays'], ['1 … 99', 'structure of this number'], [', .', 'previous and next structure'],
  ['s', 'SAM: drag a box around the structure, or click on it; Shift: outside of it; Alt: add a part'], ['b  e', 'brush, eraser'], ['[ ]', 'size of the brush'],
  ['g', 'polygon: click corners; Enter or double click closes it'], ['x', 'switch: clicks outside of the structure, polygons that remove'], ['h  m', 'fill holes, smooth'],
  ['t  r', 'start from the student’s mask, from SAM’s; with Shift for all structures'], ['a  n  A', 'absent, not annotated, the rest is absent'], ['l', 'finished: others do not take its pixels'],
  ['o', 'show or hide the structure'], ['Del', 'clear the structure'], ['u  U', 'undo, redo (also Ctrl z, Ctrl y)'], ['Ctrl ↵', 'submit'], ['F', 'flag as unusable'], ['y', 'history'],
  ['← ↑ → ↓', 'cursor (Shift: ten pixels); Enter presses and releases the tool there, twice closes a polygon'], ['v', 'move by dragging; also the middle button, two fingers, or Ctrl and arrows'], ['+ −  wheel', 'zoom'], ['Home', 'fit to the window'],
  ['right drag', 'window (sideways) and level (up and down)'], ['( )  { }', 'window, level'], ['i', 'invert'], ['f', 'filled masks, or outlines'], ['p', 'size of the crosshair: full, large, small, off'], ['Space', 'hide all masks while pressed'], ['PgUp PgDn', 'slices of a volume; z c d: direction'], ['<  >', 'volumes: SAM draws the structure on up to ten slices before, after'], ['q', 'volumes: interpolate between drawn slices'],
];

const DIGIT_DELAY = 700; // milliseconds in which a second digit belongs to the first

export class Keys {
  /** view: the tab, whose actions the keys start. */
  constructor(view) {
    this.view = view;
    this.digitTime = -Infinity;
  }

  /** A digit selects a structure; two digits within DIGIT_DELAY one above nine. */
  digit(digit) {
    const now = performance.now(), count = this.view.drawing.structures.length;
    const both = now - this.digitTime < DIGIT_DELAY ? Number(`${this.lastDigit}${digit}`) : 0;
    this.digitTime = now;
    this.lastDigit = digit;
    const number = both >= 10 && both <= count ? both : Number(digit);
    if (number >= 1 && number <= count) this.view.select(number - 1);
  }

  /** Action of a key with Ctrl, or null. */
  commandOf(event) {
    const { view } = this;
    if (!view.drawing) return null;
    const actions = { Enter: () => view.actions.submit(), z: () => view.step(-1), Z: () => view.step(1), y: () => view.step(1), s: () => view.drafts.flush() };
    return actions[event.key] ?? view.editor.command(event);
  }

  actionOf(event) {
    const { view } = this;
    if (event.key === 'j') return () => view.actions.next();
    if (!view.drawing) return null;
    if (/^\d$/.test(event.key)) return () => this.digit(event.key);
    const { active } = view.drawing;
    const ofVolumes = { '>': () => view.assist.propagate(1), '<': () => view.assist.propagate(-1), q: () => view.assist.interpolate() };
    if (view.slices.axis && ofVolumes[event.key]) return ofVolumes[event.key];
    const actions = {
      k: () => view.actions.skip(), u: () => view.step(-1), U: () => view.step(1), '.': () => view.move(1), ',': () => view.move(-1),
      a: () => view.setState(active, 'absent'), n: () => view.setState(active, 'unknown'), A: () => view.restAbsent(), l: () => view.toggleFinished(),
      t: () => view.assist.take('student', false), T: () => view.assist.take('student', true), r: () => view.assist.take('sam', false), R: () => view.assist.take('sam', true),
      F: () => view.actions.askFlag(), y: () => view.versions.showHistory(), o: () => view.toggleHidden(active), Delete: () => view.drawing.clear(),
    };
    if (event.key === 'Escape' && view.editing && !view.editor.pointer.gesture && !view.editor.tools.polygon.corners.length) return () => view.actions.back();
    return actions[event.key] ?? view.slices.action(event) ?? view.editor.action(event);
  }
}
