// Panel of the case: structures with their states, sources to start from, and the actions on the whole label.

import { button, dateTime, duration, h, svg } from '../dom.js';
import { css } from '../masks.js';

const CHOICES = { absent: ['absent', 'a: the structure is not in this image'], unknown: ['n/a', 'n: not annotated; nothing is taught about it'] };
const SOURCES = { student: 'Student', sam: 'SAM' };

const lockIcon = () => svg('svg', { viewBox: '0 0 16 16', width: '12', height: '12', 'aria-hidden': 'true' },
  svg('path', { d: 'M4 7V5a4 4 0 0 1 8 0v2h1v8H3V7zm2 0h4V5a2 2 0 0 0-4 0z', fill: 'currentColor' }));

export class Panel {
  /** view: the tab, whose actions the buttons start. */
  constructor(view) {
    this.view = view;
    this.element = h('section', { class: 'panel', 'aria-label': 'Case' });
    this.time = h('span', { class: 'number' });
    this.saved = h('span', { class: 'small', id: 'saved' });
    this.empty('No case is open. Press j for the next one, or choose one from the list.');
  }

  empty(text, error = false) {
    this.rows = [];
    this.element.replaceChildren(h('p', { class: error ? 'error-text' : 'empty' }, text));
  }

  show() {
    const { view } = this, { data, may } = view, size = data.axes ? data.size.toReversed().join(' × ') : `${data.size[1]} × ${data.size[0]}`;
    this.rows = view.drawing.structures.map((structure) => this.row(structure));
    this.list = h('ul', { class: data.overlap ? 'structures drawn free' : 'structures drawn' }, this.rows); // free: no structure needs protection
    const { label, flag, review, sources } = data;
    const status = label.digest === 'none' ? 'no label yet' : `labelled ${label.user ? `by ${label.user}, ` : ''}${dateTime(label.time)}`;
    const reviewed = review && [review.status === 'approved' && `approved by ${review.approved_by}`, review.level, review.comment].filter(Boolean).join(' · ');
    const start = sources.length ? h('div', { class: 'starts' }, h('span', { class: 'small' }, 'start from'),
      sources.map((source) => h('span', { class: 'segments' },
        button(SOURCES[source], () => view.assist.take(source, false), { id: `take-${source}`, title: `mask of ${SOURCES[source]} for the selected structure` }),
        button('all', () => view.assist.take(source, true), { id: `take-all-${source}`, title: `masks of ${SOURCES[source]} for all structures that are not finished` })))) : null;
    const colours = Object.values(data.slicer_colours).some(Boolean) ? button('Slicer’s colours', () => view.toggleColours(), { id: 'slicer-colours', class: 'quiet small', title: 'colours of 3D Slicer for the same names, in place of those that colour-blind readers tell apart' }) : '';
    const key = (text, name) => [text, ' ', h('kbd', {}, name)];
    this.element.replaceChildren(
      h('div', { class: 'case-summary' }, h('h2', { title: data.case }, data.case), h('p', { class: 'small' }, `${size} · ${status}`), reviewed && !flag ? h('p', { class: 'small', id: 'reviewed' }, reviewed) : '', h('p', { class: 'small line' }, this.time, this.saved)),
      flag ? h('div', { class: 'banner' }, `Flagged as unusable by ${flag.who}: ${flag.reason}`, may.annotate && button('Take back', () => view.actions.unflag(), { id: 'unflag' })) : '',
      this.conflict ?? '', this.comparison ?? '', start ?? '', this.list, colours,
      may.annotate ? h('div', { class: 'actions drawing' },
        button(key('Undo', 'u'), () => view.step(-1), { id: 'undo-action' }), button(key('Redo', 'U'), () => view.step(1), { id: 'redo-action' }),
        button(key('Rest absent', 'A'), () => view.restAbsent(), { id: 'rest-absent' }), button(key('Flag', 'F'), () => view.actions.askFlag(), { id: 'flag' }),
        button(key('History', 'y'), () => view.versions.showHistory(), { id: 'history' }),
        view.editing ? button(key('Back', 'Esc'), () => view.actions.back(), { id: 'back' }) : button(key('Skip', 'k'), () => view.actions.skip(), { id: 'skip' }),
        button(key('Submit', 'Ctrl ↵'), () => view.actions.submit(), { id: 'submit', class: 'primary' })) : h('p', { class: 'empty' }, 'Saving requires the role annotator.'));
    this.refresh();
  }

  row(structure) {
    const { view } = this, { name, index } = structure, pseudo = view.data.pseudo[name];
    const swatch = button(String(index + 1), () => view.toggleHidden(index), { class: 'swatch', 'aria-label': `Show ${name}` });
    const warning = pseudo?.status === 'rejected' ? 'the quality filter rejected the mask of the model' : null;
    return h('li', { 'data-structure': name }, swatch, button([name, warning && h('span', { class: 'warning', title: warning }, ' !')], () => view.select(index), { class: 'label', title: name }),
      h('span', { class: 'state' }), button(lockIcon(), () => view.toggleFinished(index), { class: 'lock quiet', 'aria-label': `${name} is finished`, title: 'l: finished; other structures do not take its pixels' }),
      h('span', { class: 'segments', role: 'group', 'aria-label': `State of ${name}` },
        Object.entries(CHOICES).map(([state, [text, title]]) => button(text, () => view.setState(index, state), { 'data-state': state, title, 'aria-label': `${name}: ${text}` }))));
  }

  /** Show the present states; called after each action. */
  refresh() {
    const { drawing } = this.view;
    if (!drawing) return;
    drawing.structures.forEach((structure, index) => {
      const row = this.rows[index];
      row.className = structure.state;
      if (index === drawing.active) row.setAttribute('aria-current', 'true');
      else row.removeAttribute('aria-current');
      row.querySelector('.state').textContent = structure.state === 'drawn' ? 'drawn' : structure.state === 'open' ? 'open' : '';
      const swatch = row.querySelector('.swatch'), lock = row.querySelector('.lock');
      swatch.style.setProperty('--colour', css(this.view.colour(index)));
      swatch.setAttribute('aria-pressed', String(!structure.hidden));
      lock.setAttribute('aria-pressed', String(structure.finished));
      for (const item of row.querySelectorAll('[data-state]')) item.setAttribute('aria-pressed', String(item.dataset.state === structure.state));
    });
    this.showTime();
    document.getElementById('slicer-colours')?.setAttribute('aria-pressed', String(this.view.likeSlicer));
    const undo = document.getElementById('undo-action'), redo = document.getElementById('redo-action');
    if (undo) undo.disabled = !drawing.undo.canUndo;
    if (redo) redo.disabled = !drawing.undo.canRedo;
  }

  showTime() {
    const { clock, drawing } = this.view;
    this.time.textContent = drawing ? `${duration(clock.seconds)} · ${drawing.actions} action${drawing.actions === 1 ? '' : 's'}` : '';
  }

  scrollTo(index) {
    this.rows[index]?.scrollIntoView({ block: 'nearest' });
  }

  /** Mark the structures without a state. */
  markOpen(open) {
    for (const structure of open) this.rows[structure.index].classList.add('undecided');
    if (open.length) this.scrollTo(open[0].index);
  }
}
