// Automatic saving of the drawing as a draft on the server.

import { annotatePath, putFile } from '../api.js';

const DELAY = 800; // milliseconds after the last change

export class DraftKeeper {
  /** content: function that returns { case, label } of the drawing; client: name of the person; show: shows the state as text. */
  constructor(content, client, show) {
    Object.assign(this, { content, client, show });
    this.timer = null;
    this.unsaved = false;
    this.sending = Promise.resolve();
  }

  /** Save soon. */
  change() {
    this.unsaved = true;
    this.show('unsaved');
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), DELAY);
  }

  /** Save now if there are changes; the promise is never rejected. */
  flush() {
    clearTimeout(this.timer);
    if (!this.unsaved) return this.sending;
    this.unsaved = false;
    const { case: name, label } = this.content();
    this.sending = this.sending.then(async () => {
      try {
        await putFile(annotatePath(name, '/draft', { client: this.client }), 'label', label);
        if (!this.unsaved) this.show('draft saved');
      } catch (error) {
        this.unsaved = true;
        this.show(`draft not saved: ${error.message}`);
        this.timer = setTimeout(() => this.flush(), 10 * DELAY);
      }
    });
    return this.sending;
  }

  /** Forget changes, because the label was submitted or dropped. */
  forget() {
    clearTimeout(this.timer);
    this.unsaved = false;
  }
}
