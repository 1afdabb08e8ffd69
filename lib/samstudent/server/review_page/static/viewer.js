// Viewer of a case: image with mask overlay, zoom, slices. Images are requested in the size of the screen, not of the file.

import { get, getBlob, reviewPath } from './api.js';
import { RequestCache } from './cache.js';
import { button, h } from './dom.js';
import { maskOverlay } from './masks.js';

// Requested sizes of an image (longest side, pixels).
const SIZES = [512, 768, 1024, 1536, 2048, 3072, 4096];
const MAX_PLANES = 48;
const RELOAD_DELAY = 250; // milliseconds from the last change of the size to the request for another resolution
const AXIS_NAMES = { z: 'axial', y: 'coronal', x: 'sagittal' };

export class Viewer {
  /** onError: receiver of errors of requests. */
  constructor(onError) {
    this.onError = onError;
    this.planes = new RequestCache(MAX_PLANES);
    this.display = { refined: true, student: false, filled: true, opacity: 0.3, hidden: new Set(), highlighted: null, masks: true };
    this.data = null;
    this.plane = null;
    this.canvas = h('canvas', { tabindex: '0', role: 'img', 'aria-label': 'No case' });
    this.sides = [...'left right top bottom'.split(' ')].map((side) => h('span', { class: `side ${side}`, 'aria-hidden': 'true' }));
    this.position = h('span', { class: 'position' });
    this.stage = h('div', { class: 'stage' }, this.canvas, this.sides, this.position);
    this.slider = h('input', { type: 'range', min: '0', 'aria-label': 'Slice', oninput: () => this.goTo(Number(this.slider.value)) });
    this.axes = h('div', { class: 'segments', role: 'group', 'aria-label': 'Direction of slices' },
      Object.entries(AXIS_NAMES).map(([axis, name]) => button(name, () => this.setAxis(axis), { 'data-axis': axis })));
    this.volume = h('div', { class: 'slices' }, this.axes, this.slider);
    this.element = h('div', { class: 'viewer' }, this.stage, this.volume, this.toolbar());
    this.resetZoom();
    this.addListeners();
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.stage);
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.reloadTimer);
  }

  toolbar() {
    const toggle = (text, key, title) => button(text, () => this.toggle(key), { 'data-display': key, title, class: 'toggle' });
    const opacity = h('input', { type: 'range', min: '0', max: '1', step: '0.05', value: String(this.display.opacity), 'aria-label': 'Opacity of filled masks',
      oninput: () => { this.display.opacity = Number(opacity.value); this.redraw(); } });
    this.toggles = h('div', { class: 'toolbar', role: 'toolbar', 'aria-label': 'Display of masks' },
      toggle('SAM’s', 'refined', 'm'), toggle('Student’s', 'student', 'c'), toggle('Filled', 'filled', 'f'),
      h('label', { class: 'opacity' }, 'opacity ', opacity), h('span', { class: 'spacer' }),
      button('−', () => this.zoomBy(1 / 1.4), { 'aria-label': 'Zoom out' }), button('Fit', () => this.fitToWindow(), { title: 'Home' }),
      button('+', () => this.zoomBy(1.4), { 'aria-label': 'Zoom in' }));
    return this.toggles;
  }

  // ---- plane ----

  /** Show a case; a volume at the slice with the largest area of its structure of the lowest quality. */
  show(data) {
    this.data = data;
    this.plane = null;
    this.resetZoom();
    this.axis = data.axes ? this.axis ?? 'z' : null;
    if (data.axes && !data.axes[this.axis]) this.axis = 'z';
    this.index = data.axes ? startIndex(data, this.axis) : null;
    this.load();
  }

  clear() {
    this.data = this.plane = null;
    this.canvas.setAttribute('aria-label', 'No case');
    this.volume.hidden = true;
    this.draw();
  }

  prefetch(data) {
    const axis = data.axes ? this.axis ?? 'z' : null;
    this.requestPlane(data, axis, data.axes ? startIndex(data, axis) : null).catch(() => {});
  }

  setAxis(axis) {
    if (!this.data?.axes || axis === this.axis) return;
    this.axis = axis;
    this.index = startIndex(this.data, axis);
    this.resetZoom();
    this.load();
  }

  step(by) {
    if (this.data?.axes) this.goTo(this.index + by);
  }

  goTo(index) {
    const last = this.data.axes[this.axis] - 1;
    const target = Math.max(0, Math.min(last, index));
    if (target === this.index) return;
    this.index = target;
    this.load();
  }

  goToStructure(structure) {
    if (structure.slices && this.axis) this.goTo(structure.slices[this.axis]);
  }

  /** Requested size (longest side, pixels): the screen's at this zoom, at most the file's. */
  size(data, axis) {
    const spacing = data.spacing.filter((_, i) => !axis || i !== 'zyx'.indexOf(axis));
    const size = data.size.filter((_, i) => !axis || i !== 'zyx'.indexOf(axis));
    const native = Math.max(...size.map((n, i) => (n * spacing[i]) / Math.min(...spacing)));
    const needed = Math.min(native, Math.max(this.canvas.width, this.canvas.height, 256) * this.zoom);
    return SIZES.find((step) => step >= needed) ?? SIZES.at(-1);
  }

  /** Request a plane, { bitmap, masks }, in the resolution of the screen. */
  requestPlane(data, axis, index) {
    const query = { axis, index, size: this.size(data, axis) };
    const key = [data.case, data.image, data.digest, ...Object.values(query)].join(' ');
    return this.planes.get(key, async () => {
      const [bitmap, masks] = await Promise.all([
        getBlob(reviewPath(data.case, '/image', query)).then((blob) => createImageBitmap(blob)),
        get(reviewPath(data.case, '/masks', query)),
      ]);
      return { bitmap, masks };
    });
  }

  async load() {
    const { data, axis, index } = this;
    if (!data) return;
    this.showPosition();
    try {
      const plane = await this.requestPlane(data, axis, index);
      if (this.data !== data || this.axis !== axis || this.index !== index) return;
      this.plane = plane;
      this.redraw();
      this.stage.dataset.shown = `${data.case} ${axis ?? ''} ${index ?? ''}`.trim();
      if (axis) for (const next of [index + 1, index - 1, index + 2]) {
        if (next >= 0 && next < data.axes[axis]) this.requestPlane(data, axis, next).catch(() => {});
      }
    } catch (error) {
      if (this.data === data) this.onError(error);
    }
  }

  showPosition() {
    const { data, axis, index } = this;
    this.volume.hidden = !axis;
    const position = axis ? `${AXIS_NAMES[axis]} ${index + 1} / ${data.axes[axis]}` : '';
    this.position.textContent = position;
    this.canvas.setAttribute('aria-label', `${data.case} ${position}`.trim());
    this.sides.forEach((side, i) => { side.textContent = axis ? data.sides[axis][i] : ''; });
    if (!axis) return;
    this.slider.max = String(data.axes[axis] - 1);
    this.slider.value = String(index);
    this.slider.setAttribute('aria-valuetext', position);
    for (const item of this.axes.children) item.setAttribute('aria-pressed', String(item.dataset.axis === axis));
  }

  // ---- display of masks ----

  toggle(key) {
    this.display[key] = !this.display[key];
    this.redraw();
  }

  toggleStructure(name) {
    if (!this.display.hidden.delete(name)) this.display.hidden.add(name);
    this.redraw();
  }

  highlight(name) {
    if (this.display.highlighted === name) return;
    this.display.highlighted = name;
    this.redraw();
  }

  redraw() {
    for (const item of this.toggles.querySelectorAll('[data-display]')) item.setAttribute('aria-pressed', String(this.display[item.dataset.display]));
    if (this.plane) {
      const [height, width] = this.plane.masks.size;
      this.overlay = maskOverlay(this.plane.masks, this.data.structures, this.display, this.scale(width, height), 1.3 * devicePixelRatio);
    }
    this.draw();
  }

  scale(width, height) {
    return Math.min(this.canvas.width / width, this.canvas.height / height) * this.zoom;
  }

  draw() {
    const context = this.canvas.getContext('2d');
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.plane) return;
    const { bitmap } = this.plane;
    const scale = this.scale(bitmap.width, bitmap.height);
    const width = bitmap.width * scale, height = bitmap.height * scale;
    const x = (this.canvas.width - width) / 2 + this.panX, y = (this.canvas.height - height) / 2 + this.panY;
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, x, y, width, height);
    if (this.display.masks) context.drawImage(this.overlay, x, y, width, height);
  }

  // ---- zoom ----

  resetZoom() {
    this.zoom = 1;
    this.panX = this.panY = 0;
  }

  fitToWindow() {
    this.resetZoom();
    this.redraw();
  }

  zoomBy(factor) {
    const zoom = Math.max(1, Math.min(16, this.zoom * factor));
    this.panX *= zoom / this.zoom;
    this.panY *= zoom / this.zoom;
    this.zoom = zoom;
    if (zoom === 1) this.panX = this.panY = 0;
    this.redraw();
    this.reloadLater();
  }

  resized() {
    const { width, height } = this.stage.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
    this.canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
    this.redraw();
    this.reloadLater();
  }

  /** Request the plane in the resolution of the new size, after its last change. */
  reloadLater() {
    clearTimeout(this.reloadTimer);
    this.reloadTimer = setTimeout(() => this.load(), RELOAD_DELAY);
  }

  addListeners() {
    let last = null;
    this.canvas.addEventListener('pointerdown', (event) => { last = event; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener('pointermove', (event) => {
      if (!last || this.zoom === 1) return;
      this.panX += (event.clientX - last.clientX) * devicePixelRatio;
      this.panY += (event.clientY - last.clientY) * devicePixelRatio;
      last = event;
      this.draw();
    });
    this.canvas.addEventListener('pointerup', () => { last = null; });
    this.canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      if (this.axis && !event.ctrlKey) this.step(Math.sign(event.deltaY));
      else this.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }, { passive: false });
  }
}

function startIndex(data, axis) {
  const visible = data.structures.filter((structure) => structure.slices);
  const worst = visible.sort((a, b) => (a.quality ?? 1) - (b.quality ?? 1))[0];
  return worst ? worst.slices[axis] : Math.floor(data.axes[axis] / 2);
}
