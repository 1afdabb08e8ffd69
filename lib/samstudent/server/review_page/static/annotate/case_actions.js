// Actions that end the work on a case: submit, skip, flag; and the next case.

import { annotatePath, post, put, putFile, remove } from '../api.js';
import { notice } from '../dom.js';
import { askReason } from './dialogs.js';

export class CaseActions {
  /** view: the tab, with its case and drawing. */
  constructor(view) {
    this.view = view;
    this.strategy = null; // of the last request for a next case; a submission is followed by another one
  }

  /** Open a case that the person has chosen. */
  choose(name) {
    this.strategy = null;
    location.hash = `#annotate/${encodeURIComponent(name)}`;
  }

  async submit() {
    const { view } = this, { drawing, data } = view;
    if (!drawing || view.busy || !view.may.annotate) return;
    const { open } = drawing;
    view.panel.markOpen(open);
    if (open.length) {
      notice(`${open.map(({ name }) => name).join(', ')}: draw, or mark as absent (a) or not annotated (n). A marks the rest as absent.`, { error: true });
      return;
    }
    view.busy = true;
    await view.drafts.flush();
    view.drafts.forget();
    try {
      await putFile(annotatePath(data.case, '/label', { client: view.client }), 'label', drawing.encoded(view.base, view.clock.seconds), { 'If-Match': `"${view.base}"` });
      notice(`${data.case}: label saved.`);
      this.leave(data.case);
    } catch (error) {
      notice(error.message, { error: true });
      if (view.drawing === drawing && error.status !== 409) view.drafts.change(); // the draft that is not needed after a submission
      if (error.status === 409) await view.versions.reportConflict(data.case);
    } finally {
      view.busy = false;
    }
    view.refresh();
  }

  /** Go on after a case is done: to the review queue, or to the next case. */
  leave(name) {
    const { view, strategy } = this;
    if (view.closed || view.requested !== name) return; // the person has gone on meanwhile
    view.shut('Saved.', false);
    view.cases.load();
    if (view.editing) this.back();
    else if (strategy) this.next(strategy);
    else history.replaceState(null, '', '#annotate');
  }

  back() {
    location.hash = '#review';
  }

  /** Next case of a strategy. */
  async next(strategy = this.view.cases.strategy.value) {
    const { view } = this;
    await view.drafts.flush();
    this.strategy = strategy;
    try {
      const { id, reason } = await post(`activelearning/${encodeURIComponent(strategy)}`, { client_id: view.client || undefined });
      if (view.closed) return; // the person has gone to another tab meanwhile
      if (!id) {
        this.strategy = null;
        notice(reason ?? 'There is no case left.');
        return;
      }
      view.cases.load();
      if (location.hash === `#annotate/${encodeURIComponent(id)}`) await view.open(id);
      else location.hash = `#annotate/${encodeURIComponent(id)}`;
    } catch (error) {
      notice(error.message, { error: true });
    }
  }

  /** Next case; a draft stays. */
  skip() {
    const { data, drawing } = this.view;
    if (data) notice(`${data.case} is skipped${drawing.actions ? '; your draft is kept' : ''}.`);
    return this.next();
  }

  askFlag() {
    const { view } = this;
    if (!view.data) return;
    const name = view.data.case;
    askReason(name, async (reason) => {
      try {
        await put(annotatePath(name, '/flag', { client: view.client }), { reason });
        notice(`${name} is flagged as unusable.`);
        this.leave(name);
      } catch (error) {
        notice(error.message, { error: true });
      }
      view.refresh();
    });
  }

  async unflag() {
    const { view } = this;
    try {
      await remove(annotatePath(view.data.case, '/flag', { client: view.client }));
      view.data.flag = null;
      view.panel.show();
      view.cases.load();
    } catch (error) {
      notice(error.message, { error: true });
    }
    view.refresh();
  }
}
