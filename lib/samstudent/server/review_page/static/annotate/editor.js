// Editor of one plane: drawing, stage, tools and the display of masks. It knows nothing of cases and the server.

import { button, h, svg } from '../dom.js';
import { crosshair, CROSSHAIRS } from './marks.js';
import { union } from './plane.js';
import { Pointer } from './pointer.js';
import { copyRuns, placed } from './runs.js';
import { Stage } from './stage.js';
import { Brush, fillActive, Polygon, Sam, SIZES, smoothActive } from './tools.js';

const TOOLS = { sam: ['SAM', 's'], brush: ['Brush', 'b'], eraser: ['Eraser', 'e'], polygon: ['Polygon', 'g'], move: ['Move', 'v'] };
const LINE = 1.3; // width of lines, CSS pixels
const STORED = 'samstudent-crosshair'; // the browser keeps its size
const STEP = 0.05; // share of the range of values for a key that changes the window
const PAN = 60; // CSS pixels for a key that moves the image

const crossIcon = () => svg('svg', { viewBox: '0 0 16 16', width: '14', height: '14', 'aria-hidden': 'true' }, svg('path', { d: 'M8 1v5M8 10v5M1 8h5M10 8h5', stroke: 'currentColor', 'stroke-width': '1.5' }));

export class Editor {
  /**
   * colours: function of a structure's index; ask: async function that lets SAM draw for prompts; say: shows a message;
   * wheel: function of a wheel event, true if it moved to another plane; input: called with every input.
   */
  constructor({ colours, ask, say, wheel, input }) {
    Object.assign(this, { colours, say, input });
    this.drawing = null;
    this.reference = []; // [{ mask, index }] drawn as dashed lines, for comparison
    this.size = 18;
    this.erasing = false; // polygons remove
    this.outside = false; // clicks of SAM are outside of the structure
    this.display = { filled: true, opacity: 0.35, masks: true };
    this.crosshair = localStorage.getItem(STORED) in CROSSHAIRS ? localStorage.getItem(STORED) : 'full';
    this.changed = (rect = null) => this.stage.invalidate('masks', rect);
    this.stage = new Stage(() => this.layers(), (context) => this.drawMarks(context));
    this.tools = { sam: new Sam(this, ask), brush: new Brush(this, 1), eraser: new Brush(this, 0), polygon: new Polygon(this), move: null };
    this.onwheel = wheel;
    this.toolbar = this.makeToolbar();
    this.pointer = new Pointer(this);
    this.use('sam');
  }

  get tool() { return this.tools[this.toolName] ?? this.tools.brush; }

  get eraser() { return this.tools.eraser; }

  get panning() { return this.toolName === 'move'; }

  // ---- tools ----

  use(name) {
    this.pointer?.stop();
    if (this.tools.polygon.corners.length) this.tools.polygon.cancel();
    this.toolName = name;
    this.stage.top.dataset.tool = name;
    this.showToolbar();
    this.stage.invalidate('marks');
  }

  resize(direction) {
    const at = SIZES.findIndex((size) => size >= this.size);
    this.size = SIZES[Math.max(0, Math.min(SIZES.length - 1, at + direction))];
    this.showToolbar();
    this.stage.invalidate('marks');
  }

  toggleSign() {
    this.outside = !this.outside;
    this.erasing = this.outside;
    this.showToolbar();
  }

  fill() { if (this.drawing) fillActive(this); }

  smooth() { if (this.drawing) smoothActive(this); }

  wheel(event) {
    this.input();
    if (event.ctrlKey || !this.onwheel(event)) this.stage.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, event);
  }

  /** Stop what is being drawn: a stroke, a polygon, or the prompts of SAM. */
  escape() {
    if (this.pointer.gesture || this.pointer.pressed) this.pointer.stop();
    else this.tool.cancel?.();
  }

  // ---- window ----

  /** Change the window by shares of the range of values: width by `contrast`, centre by `brightness`. */
  window(contrast, brightness) {
    if (!this.stage.picture) return;
    const { low, high } = this.stage.window, { depth } = this.stage.picture, width = Math.max(1, (high - low) * Math.exp(4 * contrast));
    const centre = (low + high) / 2 + brightness * Math.min(depth, 2 * (high - low));
    this.stage.setWindow({ low: centre - width / 2, high: centre + width / 2 });
  }

  invert() {
    this.stage.setWindow({ inverted: !this.stage.window.inverted });
    this.showToolbar();
  }

  // ---- display ----

  /** Next size of the crosshair. */
  turnCrosshair() {
    const sizes = Object.keys(CROSSHAIRS);
    this.crosshair = sizes[(sizes.indexOf(this.crosshair) + 1) % sizes.length];
    localStorage.setItem(STORED, this.crosshair);
    this.showToolbar();
    this.stage.invalidate('marks');
  }

  toggleFilled() {
    this.display.filled = !this.display.filled;
    this.changed();
    this.showToolbar();
  }

  showMasks(shown) {
    if (this.display.masks === shown) return;
    this.display.masks = shown;
    this.changed();
  }

  layers() {
    if (!this.drawing || !this.display.masks) return [];
    const width = Math.max(1, Math.round(LINE * this.stage.ratio)), fill = this.display.filled ? this.display.opacity : 0;
    const { structures, active } = this.drawing;
    const shown = structures.filter((structure) => !structure.hidden && structure.mask.count);
    const layer = ({ mask, index }) => ({ mask, colour: this.colours(index), fill: index === active ? fill : 0.7 * fill, line: 0.95, width: index === active ? width + 1 : width });
    const reference = this.reference.map(({ mask, index }) => ({ mask, colour: this.colours(index), fill: 0, line: 1, width: width + 1, dashed: true }));
    // The active structure above the others.
    return [...shown.filter(({ index }) => index !== active), ...shown.filter(({ index }) => index === active)].map(layer).concat(reference);
  }

  drawMarks(context) {
    if (!this.drawing) return;
    const { cursor } = this.pointer;
    if (!this.panning) {
      this.tool.draw(context, this.stage, cursor);
      // The cursor of the keyboard has no other mark.
      const size = this.crosshair === 'off' && this.pointer.byKeyboard ? 'small' : this.crosshair;
      if (cursor && this.tool.crosshair) crosshair(context, this.stage, cursor, size);
    }
    this.stage.position.textContent = [this.planeText, cursor && `${Math.round(cursor.u)}, ${Math.round(cursor.v)}`].filter(Boolean).join(' · ');
  }

  // ---- toolbar ----

  makeToolbar() {
    const item = (text, title, action, attributes = {}) => button(text, () => { action(); this.stage.top.focus(); }, { title, class: 'toggle', ...attributes });
    this.sizeText = h('output', { class: 'size', 'aria-label': 'Diameter of the brush in pixels' });
    const opacity = h('input', { type: 'range', min: '0', max: '1', step: '0.05', value: String(this.display.opacity), 'aria-label': 'Opacity of masks',
      oninput: () => { this.display.opacity = Number(opacity.value); this.changed(); } });
    return h('div', { class: 'toolbar tools', role: 'toolbar', 'aria-label': 'Tools' },
      h('span', { class: 'segments' }, Object.entries(TOOLS).map(([name, [text, key]]) => item(text, key, () => this.use(name), { 'data-tool': name, 'aria-keyshortcuts': key }))),
      item('+ / −', 'x: clicks of SAM outside of the structure, polygons that remove', () => this.toggleSign(), { 'data-option': 'outside' }),
      h('span', { class: 'brush-size' }, item('−', '[', () => this.resize(-1), { 'aria-label': 'Smaller brush' }), this.sizeText, item('+', ']', () => this.resize(1), { 'aria-label': 'Larger brush' })),
      item('Holes', 'h: fill the holes of the structure', () => this.fill()), item('Smooth', 'm: smooth the border, by about a tenth of the brush', () => this.smooth()),
      h('span', { class: 'spacer' }),
      item('Filled', 'f', () => this.toggleFilled(), { 'data-option': 'filled' }), h('label', { class: 'opacity' }, h('span', { class: 'sr' }, 'opacity'), opacity),
      item(crossIcon(), 'p', () => this.turnCrosshair(), { id: 'crosshair' }),
      item('Invert', 'i', () => this.invert(), { 'data-option': 'inverted' }),
      item('Fit', 'Home', () => this.stage.fit()));
  }

  showToolbar() {
    const options = { outside: this.outside, filled: this.display.filled, inverted: this.stage.window.inverted };
    for (const item of this.toolbar.querySelectorAll('[data-tool]')) item.setAttribute('aria-pressed', String(item.dataset.tool === this.toolName));
    for (const item of this.toolbar.querySelectorAll('[data-option]')) item.setAttribute('aria-pressed', String(options[item.dataset.option]));
    this.sizeText.textContent = `${this.size} px`;
    const cross = this.toolbar.querySelector('#crosshair');
    cross.dataset.size = this.crosshair;
    cross.title = `p: size of the crosshair, now ${this.crosshair}`;
    cross.setAttribute('aria-label', `Crosshair: ${this.crosshair}`);
  }

  /** Action of a key with Ctrl, or null. */
  command(event) {
    const move = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] }[event.key];
    return move ? () => this.stage.panBy(...move) : null;
  }

  /** Action of a key, or null. */
  action(event) {
    const polygon = this.toolName === 'polygon' && this.tools.polygon.corners.length ? this.tools.polygon.action(event.key, this.pointer.byKeyboard) : null;
    if (polygon) return polygon;
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      s: () => this.use('sam'), b: () => this.use('brush'), e: () => this.use('eraser'), g: () => this.use('polygon'), v: () => this.use('move'), x: () => this.toggleSign(),
      '[': () => this.resize(-1), ']': () => this.resize(1), h: () => this.fill(), m: () => this.smooth(), f: () => this.toggleFilled(), i: () => this.invert(), p: () => this.turnCrosshair(),
      '(': () => this.window(-STEP, 0), ')': () => this.window(STEP, 0), '{': () => this.window(0, -STEP), '}': () => this.window(0, STEP),
      '+': () => this.stage.zoomBy(1.4), '=': () => this.stage.zoomBy(1.4), '-': () => this.stage.zoomBy(1 / 1.4), Home: () => this.stage.fit(), ' ': () => this.showMasks(false),
      ArrowLeft: () => this.pointer.nudge(-far, 0), ArrowRight: () => this.pointer.nudge(far, 0), ArrowUp: () => this.pointer.nudge(0, -far), ArrowDown: () => this.pointer.nudge(0, far),
      Enter: () => this.pointer.press(event), Escape: () => this.escape(),
    };
    return actions[event.key] ?? null;
  }

  // ---- masks of SAM ----

  /** Replace the structure of the prompts on a plane by a mask of the server, together with the base of the prompts. */
  takeMask(found, plane, prompts) {
    const { drawing, stage } = this, structure = drawing.structures[prompts.structure];
    const extent = structure.mask.extent(), before = extent && plane.rectOf(extent), rect = union(placed(found, plane), before);
    const values = new Uint8Array(rect.width * rect.height);
    copyRuns(found, plane, values, rect);
    if (prompts.base) {
      const kept = structure.mask.with(prompts.base).read(plane, rect);
      for (let i = 0; i < values.length; i += 1) values[i] |= kept[i];
    }
    drawing.act(`SAM ${structure.name}`, (journal) => {
      if (structure === drawing.current) drawing.prompts = prompts;
      drawing.write(plane, rect, values, journal, structure);
      drawing.protect(structure);
    });
    this.changed();
    stage.invalidate('marks');
  }
}
