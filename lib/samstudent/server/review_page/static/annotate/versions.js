// Labels of the case by others and earlier ones: a label that was changed meanwhile, history, comparison.

import { annotatePath, get, query, remove } from '../api.js';
import { button, dateTime, h, notice } from '../dom.js';
import { showVersions } from './dialogs.js';
import { Mask, unrecorded } from './mask.js';

export class Versions {
  /** view: the tab, with its case, drawing and editor. */
  constructor(view) {
    this.view = view;
  }

  async reportConflict(name) {
    const data = await get(annotatePath(name, '', { client: this.view.client })).catch(() => null);
    if (!data || this.view.data?.case !== name) return;
    this.view.data.label = data.label;
    this.showConflict(data.label.digest === 'none' ? 'The label was removed meanwhile.' : `The label was changed ${data.label.user ? `by ${data.label.user} ` : ''}meanwhile.`);
  }

  showConflict(text) {
    const exists = this.view.data.label.digest !== 'none';
    this.view.panel.conflict = h('div', { class: 'banner', id: 'conflict' }, text, h('span', { class: 'buttons' },
      exists && button('Compare', () => this.compare({ id: null, ...this.view.data.label }), { id: 'compare-theirs', title: 'show it as dashed lines' }),
      button('Keep mine', () => this.keepMine(), { id: 'keep-mine', title: 'your drawing replaces it when you submit; it stays in the history' }),
      button('Take theirs', () => this.takeTheirs(), { id: 'take-theirs', title: 'drop your draft' })));
    this.view.panel.show();
  }

  keepMine() {
    this.view.base = this.view.data.label.digest;
    this.view.panel.conflict = null;
    this.view.panel.show();
    this.view.drafts.change();
  }

  async takeTheirs() {
    const name = this.view.data.case;
    this.view.drafts.forget();
    await remove(annotatePath(name, '/draft', { client: this.view.client })).catch(() => {});
    this.view.data = null;
    await this.view.open(name, this.view.editing);
  }

  async showHistory() {
    if (!this.view.data) return;
    const name = this.view.data.case;
    try {
      const { versions } = await get(annotatePath(name, '/history'));
      showVersions(name, versions, (version) => this.compare(version), (version) => this.restore(version));
    } catch (error) {
      notice(error.message, { error: true });
    }
  }

  /** Call run(structures) with the masks of a version, if the case is still open then. */
  async read({ id }, run) {
    const { drawing, data } = this.view;
    try {
      const { structures } = await get(annotatePath(data.case, `/label${query({ version: id })}`));
      if (this.view.drawing === drawing) run(structures);
    } catch (error) {
      notice(error.message, { error: true });
    }
  }

  compare(version) {
    const by = [version.user && `of ${version.user}`, version.time && dateTime(version.time)].filter(Boolean).join(', ');
    return this.read(version, (structures) => this.showReference(structures, by));
  }

  restore(version) {
    return this.read(version, (structures) => this.view.drawing.take(structures, this.view.data.structures, 'earlier label'));
  }

  /** Show masks as dashed lines; by: words for the label that has them. */
  showReference(structures, by) {
    this.view.editor.reference = this.view.drawing.structures.flatMap(({ name, index }) => {
      const mask = new Mask(this.view.source.size);
      mask.decode(structures[name], unrecorded());
      return mask.count ? [{ mask, index }] : [];
    });
    this.view.editor.changed();
    this.view.panel.comparison = h('div', { class: 'banner', id: 'comparison' }, `Dashed: the label ${by}.`, button('Hide', () => this.hideReference(), { id: 'hide-comparison' }));
    this.view.panel.show();
  }

  hideReference() {
    this.view.editor.reference = [];
    this.view.editor.changed();
    this.view.panel.comparison = null;
    this.view.panel.show();
  }
}
