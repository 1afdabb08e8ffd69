// Acceptance at once of all structures whose lower bound of Dice reaches a value.

import { get, post, remove } from './api.js';
import { button, h, notice, percent } from './dom.js';

const LEVELS = [0.8, 0.85, 0.9, 0.95];
const DEFAULT_LEVEL = 0.9;
const count = (number, name) => `${number} ${name}${number === 1 ? '' : 's'}`;

/** Sentences of the dialog on a response of `samstudent/promised`. */
export function facts(found) {
  const dice = found.dice.toFixed(2), certainty = percent(found.certainty, 0);
  const sentences = [found.cases ? `${count(found.structures, 'structure')} in ${count(found.cases, 'case')} will become your labels, unseen. Each has a Dice of at least ${dice} with a certainty of ${certainty}.`
    : `No waiting case has structures with a Dice of at least ${dice} at a certainty of ${certainty}.`];
  if (found.cases) sentences.push(`${found.others ? `${count(found.others, 'other structure')} of these cases, and structures` : 'Structures'} that were not found${found.others ? ',' : ''} will not be annotated.`);
  const validated = found.left_out?.cross_validated;
  const level = validated?.levels.find((item) => item.dice === found.dice);
  if (validated) {
    sentences.push(`Labelled cases that were left out: bounds were true for ${percent(validated.coverage, 0)} of ${count(validated.structures, 'structure')}${level?.structures
      ? `; of ${level.structures} with this bound, ${percent(level.true, 0)} had this Dice` : ''}.`);
  } else if (found.left_out) sentences.push(`How often bounds are true is not known: ${count(found.left_out.cases, 'labelled case')}; more than ${found.left_out.needed} are needed.`);
  const { accepted, drawn } = found.checked;
  if (accepted.structures + drawn.structures) {
    sentences.push(`Checked by humans so far: true for ${drawn.held} of ${drawn.structures} structures in drawn or corrected labels, and ${accepted.held} of ${accepted.structures} in accepted ones.`);
  }
  return sentences;
}

export class Bulk {
  /** me: response of `samstudent/me`; changed: async function called after each change. */
  constructor(me, changed) {
    this.changed = changed;
    this.element = me.may.review ? button('Accept by bound …', () => this.open(), { id: 'accept-promised', title: 'accept all structures whose lower bound of Dice reaches a value' }) : null;
  }

  open() {
    this.level = h('select', { id: 'promised-dice', onchange: () => this.load() }, LEVELS.map((dice) => h('option', { value: dice, selected: dice === DEFAULT_LEVEL }, `Dice ≥ ${dice.toFixed(2)}`)));
    this.partial = h('input', { type: 'checkbox', id: 'promised-partial', onchange: () => this.load() });
    this.text = h('div', { class: 'facts', 'aria-live': 'polite' });
    this.confirm = button('Accept', () => this.accept(), { class: 'primary', id: 'confirm', disabled: true });
    this.dialog = h('dialog', { 'aria-labelledby': 'promised-title', onclose: () => this.dialog.remove() },
      h('h2', { id: 'promised-title' }, 'Accept all structures with a lower bound'),
      h('p', {}, h('label', {}, 'Lower bound ', this.level)),
      h('p', {}, h('label', {}, this.partial, ' also cases in which only some structures reach it; the others are not annotated then')),
      this.text, h('div', { class: 'buttons' }, button('Cancel', () => this.dialog.close()), this.confirm));
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.load();
  }

  body() {
    return { dice: Number(this.level.value), partial: this.partial.checked };
  }

  async load() {
    const query = new URLSearchParams(this.body()).toString();
    this.query = query;
    this.confirm.disabled = true;
    try {
      const found = await get(`samstudent/promised?${query}`);
      if (this.query !== query) return; // the selection has changed in the meantime
      this.found = found;
      this.text.replaceChildren(...facts(found).map((sentence) => h('p', {}, sentence)));
      this.confirm.disabled = found.cases === 0;
      this.confirm.textContent = found.cases ? `Accept ${count(found.structures, 'structure')} in ${count(found.cases, 'case')}` : 'Accept';
    } catch (error) {
      this.text.replaceChildren(h('p', { class: 'error-text' }, error.message));
    }
  }

  async accept() {
    this.confirm.disabled = true;
    try {
      const { batch, cases, structures, failed } = await post('samstudent/promised', { ...this.body(), digest: this.found.digest });
      const errors = Object.entries(failed).map(([name, reason]) => `${name}: ${reason}`);
      this.dialog.close();
      notice(`${count(structures, 'structure')} in ${count(cases, 'case')} accepted.${errors.length ? ` Not accepted: ${errors.join('; ')}.` : ''}`, { error: errors.length > 0, action: { text: 'Undo', run: () => this.undo(batch) } });
    } catch (error) {
      notice(error.message, { error: true });
      await this.load();
      return;
    }
    await this.changed();
  }

  async undo(batch) {
    try {
      const { undone } = await remove(`samstudent/promised/${batch}`);
      notice(`${count(undone, 'case')}: no longer accepted; waiting for review again.`);
    } catch (error) {
      notice(error.message, { error: true });
    }
    await this.changed();
  }
}
