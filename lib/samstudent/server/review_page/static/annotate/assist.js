// Masks that the server makes for the drawing: SAM for boxes, points and the next slices of a volume; masks of models.

import { annotatePath, get, post } from '../api.js';
import { notice } from '../dom.js';
import { interpolate, propagate } from './between.js';

export class Assistance {
  /** view: the tab, with its case, drawing and editor. */
  constructor(view) {
    this.view = view;
    this.asked = 0; // number of questions to SAM
  }

  /** Begin with a case. */
  begin() {
    this.latest = new Map(); // number of the last question by structure and plane
  }

  /** Let the server make the embedding of the plane, so that the first box is answered at once. */
  async prepare(axis, index) {
    const { source } = this.view;
    try {
      await post(annotatePath(this.view.data.case, '/prepare', { axis, index }));
      if (this.view.source === source) this.view.editor.stage.element.dataset.ready = [this.view.data.case, axis, index].filter((part) => part !== null).join(' ');
    } catch (error) {
      if (this.view.source === source && error.status !== 401) notice(`SAM is not ready: ${error.message}`, { error: true });
    }
  }

  /** Let SAM draw the structure for prompts; of a structure on a plane only the answer to the latest is used. */
  async ask(prompts) {
    const { drawing } = this.view, { plane } = this.view.editor.stage, { latest } = this, start = performance.now();
    const key = `${prompts.structure} ${prompts.plane}`, number = (this.asked += 1);
    latest.set(key, number);
    try {
      const found = await this.answer(drawing.structures[prompts.structure].name, plane, prompts);
      if (this.view.drawing !== drawing || latest.get(key) !== number) return;
      if (found.box) this.view.editor.takeMask(found, plane, prompts);
      else notice('SAM found nothing there. Draw the box closer, or use the brush.');
      this.view.editor.stage.element.dataset.answered = `${number} ${Math.round(performance.now() - start)}`;
    } catch (error) {
      if (this.view.drawing === drawing) notice(error.message, { error: true });
    }
  }

  /** Mask of SAM on a plane for a box and points in display orientation. */
  answer(structure, plane, { box, positive = [], negative = [] }) {
    const point = ([u, v]) => plane.mirrored(u, v);
    const corners = box && [...point(box.slice(0, 2)), ...point(box.slice(2))];
    const body = { structure, box: corners, positive: positive.map(point), negative: negative.map(point), axis: plane.axis, index: plane.axis && plane.index };
    return post(annotatePath(this.view.data.case, '/sam', { client: this.view.client }), body);
  }

  /** Draw the structure on the next slices of a volume in a direction, by SAM. */
  async propagate(direction) {
    const { drawing, source, slices: { axis, index } } = this.view, { name } = drawing.current;
    if (this.view.busy) return;
    this.view.busy = true;
    const ask = (plane, box) => {
      this.view.panel.saved.textContent = `SAM on slice ${plane.index + 1}`; // one slice takes a second without a GPU
      return this.answer(name, plane, { box });
    };
    try {
      const { slices, reason } = await propagate(drawing, (at) => source.plane(axis, at), this.view.data.axes[axis], index, direction, ask);
      if (!slices) this.view.panel.saved.textContent = '';
      notice(`${name}: drawn on ${slices} more slice${slices === 1 ? '' : 's'}${reason ? ` (${reason})` : ''}.`);
    } catch (error) {
      notice(error.message, { error: true });
    } finally {
      this.view.busy = false;
    }
  }

  /** Fill the slices between drawn ones. */
  interpolate() {
    const { drawing, source, slices: { axis } } = this.view, filled = interpolate(drawing, (at) => source.plane(axis, at), this.view.data.axes[axis]);
    notice(filled ? `${drawing.current.name}: ${filled} slice${filled === 1 ? '' : 's'} interpolated.` : 'There is no slice between two drawn ones.');
  }

  /** Take the masks of a model, of the selected structure or of all that are not finished. */
  async take(source, all) {
    const { drawing, data } = this.view;
    const names = all ? drawing.structures.filter((structure) => !structure.finished).map(({ name }) => name) : [drawing.current.name];
    try {
      const { structures } = await get(annotatePath(data.case, '/predicted', { source }));
      if (this.view.drawing === drawing) drawing.take(structures, names, `masks of ${source}`);
    } catch (error) {
      notice(error.message, { error: true });
    }
  }
}
