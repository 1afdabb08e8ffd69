// Labels of the case by others and earlier ones: a label that was changed meanwhile, history, comparison.

import { annotatePath, get, query, remove } from '../api.js';
import { h, notice } from '../dom.js';
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
    const item = (name, title, run, id) => h('button', { type: 'button', id, title, onclick: run }, name);
    const exists = this.view.data.label.digest !== 'none';
    this.view.panel.conflict = h('div', { class: 'banner', id: 'conflict' }, text, h('span', { class: 'buttons' },
      exists && item('Compare', 'show it as dashed lines', () => this.compare({ id: null }), 'compare-theirs'),
      item('Keep mine', 'your drawing replaces it when you submit; it stays in the history', () => this.keepMine(), 'keep-mine'),
      item('Take theirs', 'drop your draft', () => this.takeTheirs(), 'take-theirs')));
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

  async compare({ id }) {
    const { structures } = await get(annotatePath(this.view.data.case, `/label${query({ version: id })}`));
    this.view.editor.reference = this.view.drawing.structures.flatMap(({ name, index }) => {
      const mask = new Mask(this.view.source.size);
      mask.decode(structures[name], unrecorded());
      return mask.count ? [{ mask, index }] : [];
    });
    this.view.editor.changed();
    notice('Dashed: the other label.', { action: { text: 'Hide', run: () => { this.view.editor.reference = []; this.view.editor.changed(); } } });
  }

  async restore({ id }) {
    const { structures } = await get(annotatePath(this.view.data.case, `/label${query({ version: id })}`));
    this.view.drawing.take(structures, this.view.data.structures, 'earlier label');
  }
}
