// Slices of a volume: direction and position.

import { button, h } from '../dom.js';

const NAMES = { z: 'axial', y: 'coronal', x: 'sagittal' };
const KEYS = { z: 'z', c: 'y', d: 'x' };

export class Slices {
  /** showPlane: function of (axis, index); assist: has `propagate`, of a direction, and `interpolate`. */
  constructor(showPlane, assist) {
    this.showPlane = showPlane;
    this.axis = this.index = null;
    this.slider = h('input', { type: 'range', min: '0', 'aria-label': 'Slice', oninput: () => this.moveTo(Number(this.slider.value)) });
    this.axes = h('div', { class: 'segments', role: 'group', 'aria-label': 'Direction of slices' }, Object.entries(NAMES).map(([axis, name]) => button(name, () => this.turn(axis), { 'data-axis': axis })));
    this.element = h('div', { class: 'slices', hidden: true }, this.axes, this.slider,
      button('‹ SAM', () => assist.propagate(-1), { title: '<: SAM draws the structure on up to ten slices before this one', id: 'propagate-down' }),
      button('Interpolate', () => assist.interpolate(), { title: 'q: fill the slices between drawn ones', id: 'interpolate' }),
      button('SAM ›', () => assist.propagate(1), { title: '>: SAM draws the structure on up to ten slices after this one', id: 'propagate-up' }));
  }

  /** Begin with a case; a volume at the middle of what is drawn. */
  show(data, drawing) {
    this.data = data;
    this.drawing = drawing;
    this.axis = data.axes ? 'z' : null;
    this.index = data.axes ? this.middle(this.axis) : null;
    this.refresh();
  }

  middle(axis, structures = this.drawing.structures) {
    const boxes = structures.map(({ mask }) => mask.bounds()).filter(Boolean), i = 'xyz'.indexOf(axis);
    if (!boxes.length) return this.data.axes[axis] >> 1;
    return (Math.min(...boxes.map(({ from }) => from[i])) + Math.max(...boxes.map(({ to }) => to[i]))) >> 1;
  }

  get text() {
    return this.axis ? `${NAMES[this.axis]} ${this.index + 1} / ${this.data.axes[this.axis]}` : '';
  }

  turn(axis) {
    if (!this.data?.axes || axis === this.axis) return;
    this.axis = axis;
    this.index = this.middle(axis);
    this.refresh();
    this.showPlane(this.axis, this.index);
  }

  moveTo(index) {
    if (!this.axis) return;
    const target = Math.max(0, Math.min(this.data.axes[this.axis] - 1, index));
    if (target === this.index) return;
    this.index = target;
    this.refresh();
    this.showPlane(this.axis, this.index);
  }

  /** Go to a structure that is not on this slice. */
  goTo(structure) {
    const extent = this.axis && structure.mask.bounds(), i = 'xyz'.indexOf(this.axis);
    if (extent && (this.index < extent.from[i] || this.index > extent.to[i])) this.moveTo(this.middle(this.axis, [structure]));
  }

  wheel(event) {
    if (!this.axis) return false;
    this.moveTo(this.index + Math.sign(event.deltaY));
    return true;
  }

  action(event) {
    if (!this.axis) return null;
    if (KEYS[event.key]) return () => this.turn(KEYS[event.key]);
    const far = event.shiftKey ? 10 : 1, actions = { PageUp: () => this.moveTo(this.index + far), PageDown: () => this.moveTo(this.index - far) };
    return actions[event.key] ?? null;
  }

  neighbours() {
    if (!this.axis) return [];
    return [this.index + 1, this.index - 1, this.index + 2].filter((index) => index >= 0 && index < this.data.axes[this.axis]);
  }

  refresh() {
    this.element.hidden = !this.axis;
    if (!this.axis) return;
    this.slider.max = String(this.data.axes[this.axis] - 1);
    this.slider.value = String(this.index);
    this.slider.setAttribute('aria-valuetext', this.text);
    for (const item of this.axes.children) item.setAttribute('aria-pressed', String(item.dataset.axis === this.axis));
  }
}
