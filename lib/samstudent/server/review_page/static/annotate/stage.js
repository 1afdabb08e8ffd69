// Canvas of the image: three layers (image, masks, marks), zoom and pan, and a redraw at most once a frame.

import { h } from '../dom.js';
import { overlayImage } from './overlay.js';
import { union } from './plane.js';

const MAX_ZOOM = 40;

export class Stage {
  /** layers: function that returns the layers of masks, from the lowest; marks: function that draws marks into a context. */
  constructor(layers, marks) {
    this.layers = layers;
    this.marks = marks;
    this.image = h('canvas', { 'aria-hidden': 'true' });
    this.masks = h('canvas', { 'aria-hidden': 'true' });
    this.top = h('canvas', { tabindex: '0', role: 'img', 'aria-label': 'No case', id: 'drawing' });
    this.position = h('span', { class: 'position' });
    this.sides = ['left', 'right', 'top', 'bottom'].map((side) => h('span', { class: `side ${side}`, 'aria-hidden': 'true' }));
    this.element = h('div', { class: 'stage' }, this.image, this.masks, this.top, this.sides, this.position);
    this.plane = this.picture = null;
    this.window = { low: 0, high: 255, inverted: false };
    this.stale = { image: false, masks: false, marks: false, rect: null };
    this.fit();
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.request);
  }

  /** Show a plane with its pixels; keep: zoom and position of the plane before. */
  show(plane, picture, keep = false) {
    this.plane = plane;
    this.picture = picture;
    if (!keep) this.fit();
    picture?.setWindow(this.window.low, this.window.high, this.window.inverted);
    this.redraw();
  }

  setWindow(window) {
    Object.assign(this.window, window);
    this.picture?.setWindow(this.window.low, this.window.high, this.window.inverted);
    this.invalidate('image');
  }

  // ---- geometry ----

  /** Position of the plane on the screen, in screen pixels. */
  get view() {
    const { plane } = this;
    const scaleU = Math.min(this.top.width / plane.width, this.top.height / (plane.height * plane.aspect)) * this.zoom, scaleV = scaleU * plane.aspect;
    return { scaleU, scaleV, left: (this.top.width - plane.width * scaleU) / 2 + this.panX, top: (this.top.height - plane.height * scaleV) / 2 + this.panY };
  }

  /** Point of an event on the plane, { u, v }; pixel centres are whole numbers. */
  point(event) {
    const box = this.top.getBoundingClientRect(), view = this.view;
    return {
      u: ((event.clientX - box.left) * this.ratio - view.left) / view.scaleU - 0.5,
      v: ((event.clientY - box.top) * this.ratio - view.top) / view.scaleV - 0.5,
    };
  }

  /** Point of the plane on the screen, in screen pixels. */
  toScreen({ u, v }) {
    const view = this.view;
    return { x: view.left + (u + 0.5) * view.scaleU, y: view.top + (v + 0.5) * view.scaleV };
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  // ---- zoom ----

  fit() {
    this.zoom = 1;
    this.panX = this.panY = 0;
    this.redraw();
  }

  /** Zoom by a factor; the point of the plane at `event` (default: the centre) stays where it is. */
  zoomBy(factor, event = null) {
    if (!this.plane) return;
    const box = this.top.getBoundingClientRect(), zoom = Math.max(0.5, Math.min(MAX_ZOOM, this.zoom * factor));
    const x = event ? (event.clientX - box.left) * this.ratio : this.top.width / 2, y = event ? (event.clientY - box.top) * this.ratio : this.top.height / 2;
    const grow = zoom / this.zoom;
    this.panX = (this.panX - (x - this.top.width / 2)) * grow + x - this.top.width / 2;
    this.panY = (this.panY - (y - this.top.height / 2)) * grow + y - this.top.height / 2;
    this.zoom = zoom;
    this.redraw();
  }

  /** Move by a distance in CSS pixels. */
  panBy(x, y) {
    this.panX += x * this.ratio;
    this.panY += y * this.ratio;
    this.redraw();
  }

  resized() {
    const { width, height } = this.element.getBoundingClientRect();
    for (const canvas of [this.image, this.masks, this.top]) {
      canvas.width = Math.max(1, Math.round(width * this.ratio));
      canvas.height = Math.max(1, Math.round(height * this.ratio));
    }
    this.draw();
  }

  // ---- drawing ----

  /** Redraw a layer in the next frame; rect: only this part of the plane (of the layer `masks`). */
  invalidate(layer, rect = null) {
    if (layer === 'masks' && rect && !this.stale.masks) this.stale.rect = union(this.stale.rect, rect);
    else this.stale[layer] = true;
    this.request ??= requestAnimationFrame(() => this.draw());
  }

  redraw() {
    for (const layer of ['image', 'masks', 'marks']) this.invalidate(layer);
  }

  draw() {
    cancelAnimationFrame(this.request);
    this.request = null;
    const { stale } = this;
    this.stale = { image: false, masks: false, marks: false, rect: null };
    if (!this.plane || !this.picture) {
      for (const canvas of [this.image, this.masks, this.top]) canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    if (stale.image) this.drawImage();
    if (stale.masks) this.drawMasks({ x: 0, y: 0, width: this.masks.width, height: this.masks.height });
    else if (stale.rect) this.drawMasks(this.screenPart(stale.rect));
    if (stale.marks) {
      const context = this.top.getContext('2d');
      context.clearRect(0, 0, this.top.width, this.top.height);
      this.marks(context, this);
    }
  }

  /** Screen pixels of a part of the plane, with a margin for lines. */
  screenPart(rect) {
    const view = this.view, margin = 3 + Math.ceil(view.scaleU);
    const x = Math.max(0, Math.floor(view.left + rect.u * view.scaleU) - margin), y = Math.max(0, Math.floor(view.top + rect.v * view.scaleV) - margin);
    const right = Math.min(this.masks.width, Math.ceil(view.left + (rect.u + rect.width) * view.scaleU) + margin);
    const bottom = Math.min(this.masks.height, Math.ceil(view.top + (rect.v + rect.height) * view.scaleV) + margin);
    return { x, y, width: right - x, height: bottom - y };
  }

  drawMasks(part) {
    if (part.width <= 0 || part.height <= 0) return;
    this.masks.getContext('2d').putImageData(overlayImage(this.plane, this.view, part, this.layers()), part.x, part.y);
  }

  drawImage() {
    const context = this.image.getContext('2d'), { view, picture } = this;
    context.clearRect(0, 0, this.image.width, this.image.height);
    const level = picture.levelFor(view.scaleU), { width, height } = picture.levels[level];
    // Visible part, in pixels of the level; a level may lack less than one of its pixels at the right and below.
    const stepU = 2 ** level, stepV = stepU;
    const x0 = Math.max(0, Math.floor(-view.left / view.scaleU / stepU) - 1), y0 = Math.max(0, Math.floor(-view.top / view.scaleV / stepV) - 1);
    const x1 = Math.min(width, Math.ceil((this.image.width - view.left) / view.scaleU / stepU) + 1), y1 = Math.min(height, Math.ceil((this.image.height - view.top) / view.scaleV / stepV) + 1);
    if (x1 <= x0 || y1 <= y0) return;
    const scratch = new OffscreenCanvas(x1 - x0, y1 - y0);
    scratch.getContext('2d').putImageData(picture.region(level, { x: x0, y: y0, width: x1 - x0, height: y1 - y0 }), 0, 0);
    context.imageSmoothingEnabled = view.scaleU < 6;
    context.drawImage(scratch, view.left + x0 * stepU * view.scaleU, view.top + y0 * stepV * view.scaleV, (x1 - x0) * stepU * view.scaleU, (y1 - y0) * stepV * view.scaleV);
  }
}
