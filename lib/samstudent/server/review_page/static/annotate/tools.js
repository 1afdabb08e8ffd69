// Tools that change the mask of the active structure on the plane that is shown. A tool gets points { u, v } of the plane.

import { dot, outlined, sign } from './marks.js';
import { clipped } from './plane.js';
import { fillHoles, fillPolygon, paintStroke, polygonRect, smooth, strokeRect } from './shapes.js';

export const SIZES = [1, 2, 3, 5, 8, 12, 18, 26, 38, 55, 80, 120, 180]; // diameters of the brush, pixels
const CLOSE = 8; // screen pixels from the first corner of a polygon that close it
const DRAG = 4; // screen pixels; a shorter drag is a click

/** Brush, or eraser. */
export class Brush {
  /** editor: { drawing, stage, changed(rect) }; value: 1 draws, 0 erases. */
  constructor(editor, value) {
    this.editor = editor;
    this.value = value;
  }

  down(point) {
    const { drawing } = this.editor;
    drawing.begin(`${this.value ? 'draw' : 'erase'} ${drawing.current.name}`);
    this.last = point;
    this.stroke(point, point);
  }

  move(points) {
    for (const point of points) {
      this.stroke(this.last, point);
      this.last = point;
    }
  }

  up() {
    this.editor.drawing.finish();
    this.last = null;
  }

  cancel() {
    if (!this.last) return;
    this.last = null;
    this.editor.drawing.undo.cancel();
    this.editor.changed();
  }

  stroke(a, b) {
    const { drawing, stage, size } = this.editor, { plane } = stage, radius = size / 2;
    const rect = clipped(strokeRect(a, b, Math.max(radius, radius / plane.aspect)), plane);
    if (!rect) return;
    const values = drawing.current.mask.read(plane, rect);
    paintStroke(values, rect, a, b, Math.max(radius, 0.5), this.value, plane.aspect);
    drawing.write(plane, rect, values);
    this.editor.changed(rect);
  }

  draw(context, stage, cursor) {
    if (!cursor) return;
    const { x, y } = stage.toScreen(cursor), { scaleU, scaleV } = stage.view, radius = this.editor.size / 2;
    context.beginPath();
    context.ellipse(x, y, radius * scaleU, (radius / stage.plane.aspect) * scaleV, 0, 0, 2 * Math.PI);
    outlined(context, this.value ? [] : [4, 4]);
  }
}

/** Polygon by corners; closed at its first corner, by a double click or Enter. */
export class Polygon {
  corners = [];

  crosshair = true;

  constructor(editor) {
    this.editor = editor;
  }

  down(point, event) {
    const { stage } = this.editor, first = this.corners[0];
    if (first && this.corners.length > 2 && (event?.detail >= 2 || distance(stage, first, point) < CLOSE)) this.close();
    else if (!this.corners.length || distance(stage, this.corners.at(-1), point) > 1) this.corners.push(point);
    stage.invalidate('marks');
  }

  move() { this.editor.stage.invalidate('marks'); }

  up() {}

  close() {
    const { drawing, stage, erasing } = this.editor, points = this.corners;
    this.corners = [];
    const rect = points.length > 2 && clipped(polygonRect(points), stage.plane);
    if (!rect) return;
    const values = drawing.current.mask.read(stage.plane, rect);
    fillPolygon(values, rect, points, erasing ? 0 : 1);
    drawing.act(`polygon ${drawing.current.name}`, (journal) => drawing.write(stage.plane, rect, values, journal));
    this.editor.changed(rect);
  }

  cancel() {
    this.corners = [];
    this.editor.stage.invalidate('marks');
  }

  /** Action of a key while there are corners, or null. byKeyboard: Enter sets corners at the keyboard's cursor. */
  action(key, byKeyboard) {
    const actions = { Backspace: () => this.corners.pop() };
    if (!byKeyboard) actions.Enter = () => this.close();
    return actions[key] && (() => { actions[key](); this.editor.stage.invalidate('marks'); });
  }

  draw(context, stage, cursor) {
    if (!this.corners.length) return;
    context.beginPath();
    for (const corner of [...this.corners, cursor ?? this.corners.at(-1)]) {
      const { x, y } = stage.toScreen(corner);
      context.lineTo(x, y);
    }
    outlined(context, []);
    for (const corner of this.corners) dot(context, stage.toScreen(corner), 3, '#fff');
  }
}

/** SAM: a drag is a box, a click a point of the structure; with Shift, or the switch, a point outside of it. */
export class Sam {
  /** ask: async function that draws the structure for the prompts of the drawing. */
  constructor(editor, ask) {
    this.editor = editor;
    this.ask = ask;
    this.start = null;
  }

  /** Whether a box is being drawn. */
  get drags() { return this.start !== null && distance(this.editor.stage, this.start, this.end) >= DRAG; }

  get crosshair() { return !this.drags; }

  down(point, event) {
    this.start = point;
    this.end = point;
    this.outside = Boolean(event?.shiftKey) !== this.editor.outside;
    this.keeps = Boolean(event?.altKey);
  }

  move(points) {
    if (!this.start) return;
    this.end = points.at(-1);
    this.editor.stage.invalidate('marks');
  }

  up() {
    if (!this.start) return;
    const { drawing, stage } = this.editor, { start, end } = this, { plane } = stage;
    this.start = null;
    const inside = ({ u, v }) => ({ u: Math.max(0, Math.min(plane.width - 1, u)), v: Math.max(0, Math.min(plane.height - 1, v)) });
    const isPoint = distance(stage, start, end) < DRAG;
    const fits = drawing.prompts?.structure === drawing.active && drawing.prompts.plane === planeKey(plane);
    const prompts = isPoint && fits ? structuredClone({ ...drawing.prompts, base: undefined }) : { structure: drawing.active, plane: planeKey(plane), box: null, positive: [], negative: [] };
    // Alt keeps what the structure has already, e.g. for a second part.
    prompts.base = isPoint && fits ? drawing.prompts.base : this.keeps || (isPoint && this.outside) ? new Map(drawing.current.mask.tiles) : null;
    if (isPoint) {
      const { u, v } = inside(end);
      prompts[this.outside ? 'negative' : 'positive'].push([u, v]);
    } else {
      const a = inside(start), b = inside(end);
      prompts.box = [Math.min(a.u, b.u), Math.min(a.v, b.v), Math.max(a.u, b.u), Math.max(a.v, b.v)];
    }
    stage.invalidate('marks');
    if (!prompts.box && !prompts.positive.length) {
      this.editor.say('Mark the structure first: drag a box around it, or click on it.');
      return;
    }
    this.ask(prompts);
  }

  cancel() {
    this.start = null;
    this.editor.drawing.prompts = null;
    this.editor.stage.invalidate('marks');
  }

  draw(context, stage) {
    const { prompts, active } = this.editor.drawing;
    const box = (a, b) => {
      const from = stage.toScreen({ u: a.u - 0.5, v: a.v - 0.5 }), to = stage.toScreen({ u: b.u + 0.5, v: b.v + 0.5 });
      context.beginPath();
      context.rect(from.x, from.y, to.x - from.x, to.y - from.y);
      outlined(context, [6, 4]);
    };
    if (prompts?.structure === active && prompts.plane === planeKey(stage.plane)) {
      if (prompts.box) box({ u: prompts.box[0], v: prompts.box[1] }, { u: prompts.box[2], v: prompts.box[3] });
      for (const [u, v] of prompts.positive) sign(context, stage.toScreen({ u, v }), true);
      for (const [u, v] of prompts.negative) sign(context, stage.toScreen({ u, v }), false);
    }
    if (this.drags) box(this.start, this.end);
  }
}

export const planeKey = (plane) => `${plane.axis ?? ''} ${plane.index ?? ''}`;

/** Fill the holes of the active structure on the plane. */
export function fillActive({ drawing, stage, changed }) {
  drawing.transform(`fill holes of ${drawing.current.name}`, stage.plane, 1, fillHoles);
  changed();
}

/** Smooth the border of the active structure on the plane, by about a tenth of the brush. */
export function smoothActive({ drawing, stage, size, changed }) {
  const radius = Math.max(1, Math.round(size / 10));
  drawing.transform(`smooth ${drawing.current.name}`, stage.plane, 2 * radius + 1, (values, width, height) => smooth(values, width, height, radius));
  changed();
}

function distance(stage, a, b) {
  const from = stage.toScreen(a), to = stage.toScreen(b);
  return Math.hypot(to.x - from.x, to.y - from.y);
}
