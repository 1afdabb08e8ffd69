// Review of pseudo labels: queue, viewer, and panel of the case with the decisions to accept, reject or send it.

import { get, post, remove, reviewPath } from './api.js';
import { Bulk } from './bulk.js';
import { RequestCache } from './cache.js';
import { boundText, button, dateTime, h, notice, percent } from './dom.js';
import { colour, css } from './masks.js';
import { Queue, STATES } from './queue.js';
import { Viewer } from './viewer.js';

const RESULTS = { accept: 'accepted', reject: 'rejected', send: 'sent to annotators' };
/** Sources of a structure's mask: text of the button, and its explanation. */
const SOURCES = {
  refined: { text: 'SAM', title: 'use the mask of SAM' },
  student: { text: 'student', title: 'use the mask of the student' },
  absent: { text: 'none', title: 'the structure is not in this image' },
};
const SHORTCUTS = [
  ['a', 'accept: the pseudo label becomes a human label'], ['Shift a', 'accept, with SAM’s mask for each structure without a source'],
  ['r', 'reject: not used for training until it is generated again'], ['s', 'send: annotators get the case first'],
  ['u', 'undo the last decision'], ['j  →', 'next case'], ['k  ←', 'previous case'],
  ['↑ ↓  PgUp PgDn', 'slices of a volume (PgUp and PgDn: ten)'], ['x y z', 'slices perpendicular to that axis'],
  ['1 … 9', 'show or hide a structure'], ['0', 'show or hide all structures'], ['m', 'SAM’s masks'], ['c', 'the student’s coarse masks'],
  ['f', 'filled masks, or outlines only'], ['Space', 'hide all masks while pressed'], ['+ −', 'zoom; drag to move'], ['Home', 'fit to the window'],
  ['e', 'edit: draw on the masks of SAM'],
];

/** Largest number of cases whose details are kept. */
const MAX_DETAILS = 20;

export class Review {
  name = 'review';

  constructor(main, me, overview, refresh) {
    this.me = me;
    this.refresh = refresh;
    this.shortcuts = SHORTCUTS;
    this.details = new RequestCache(MAX_DETAILS); // responses of `samstudent/review/<case>` by case
    this.lastDecided = null; // case of the last decision, for undo
    this.requested = undefined; // name of the selected case; null: none; undefined: not loaded yet
    this.current = null; // details of the case that is shown
    this.viewer = new Viewer((error) => notice(error.message, { error: true }));
    const bulk = new Bulk(me, async () => { this.details.clear(); await this.queue.load(); this.refresh(); });
    this.queue = new Queue(overview, (name) => this.select(name), bulk.element);
    this.panel = h('section', { class: 'panel', 'aria-label': 'Case' });
    main.append(this.queue.element, this.viewer.element, this.panel);
  }

  close() {
    this.viewer.close();
  }

  async open(name) {
    if (name !== null && name === this.current?.case) return;
    await this.queue.load(0, name);
  }

  /** Receive a new overview: other users make decisions as well, and rounds generate new pseudo labels. */
  async update(overview) {
    if (this.busy || !await this.queue.update(overview.counts)) return;
    if (this.current === null && this.requested === null) await this.select(this.queue.firstCase());
  }

  // ---- case ----

  detail(name) {
    return this.details.get(name, () => get(reviewPath(name)));
  }

  async select(name) {
    this.requested = name;
    this.queue.mark(name);
    history.replaceState(null, '', name === null ? '#review' : `#review/${encodeURIComponent(name)}`);
    if (name === null) {
      this.current = null;
      this.viewer.clear();
      this.panel.replaceChildren(h('p', { class: 'empty' }, 'No case is selected.'));
      return;
    }
    let data;
    try {
      data = await this.detail(name);
    } catch (error) {
      if (this.requested !== name) return;
      this.current = null;
      this.viewer.clear();
      this.panel.replaceChildren(h('h2', {}, name), h('p', { class: 'error-text' }, error.message));
      return;
    }
    if (this.requested !== name) return;
    this.current = data;
    this.sources = Object.fromEntries(data.structures.map((s) => [s.name, { accepted: 'refined', absent: 'absent' }[s.status] ?? null]));
    this.viewer.show(data);
    this.showPanel();
    const next = this.queue.next(name);
    if (next) this.detail(next).then((details) => this.viewer.prefetch(details), () => {});
  }

  showPanel() {
    const data = this.current;
    const { student, sam_backend: sam } = data.provenance;
    const provenance = student ? `student ${student.slice(0, 8)}, ${sam || 'no SAM'}` : '';
    const size = data.axes ? data.size.toReversed().join(' × ') : `${data.size[1]} × ${data.size[0]}`;
    this.rows = data.structures.map((structure, index) => this.row(structure, index));
    const decided = data.state !== 'waiting';
    // Without any bound its column is left to the names.
    const bounds = data.structures.some((structure) => boundText(structure.lower_bound)) ? '' : 'unbounded';
    const actions = !this.me.may.review ? h('p', { class: 'empty' }, 'Decisions require the role reviewer.')
      : decided ? h('div', { class: 'actions' }, button(`Undo: ${data.state}`, () => this.undo(data.case), { id: 'undo' }))
        : h('div', { class: 'actions' }, this.action('Accept', 'a', 'accept', 'primary'), this.action('Reject', 'r', 'reject'), this.action('Send', 's', 'send'), this.me.may.annotate && button(['Edit ', h('kbd', {}, 'e')], () => this.edit(), { id: 'edit', 'aria-keyshortcuts': 'e' }));
    const status = decided ? `${STATES[data.state]}${data.who ? ` by ${data.who}` : ''}, ${dateTime(data.time)}` : [`lowest ${percent(data.worst, 0)}, mean ${percent(data.mean, 0)}`, boundText(data.lower_bound)].filter(Boolean).join(', ');
    this.panel.replaceChildren(h('div', { class: 'case-summary' }, h('h2', { title: data.case }, data.case), h('p', {}, status), h('p', { class: 'small', title: provenance }, `${size} · ${provenance}`)),
      h('div', { class: `legend ${bounds}` }, h('span', { title: 'estimated Dice; line: threshold of the quality filter; ≥: lower bound of Dice' }, bounds ? 'quality' : 'quality, Dice ≥'), h('span', {}, 'source')),
      h('ul', { class: `structures ${bounds}` }, this.rows), actions);
  }

  action(text, key, decision, style = '') {
    return button([text, ' ', h('kbd', {}, key)], () => this.decide(decision), { id: decision, class: style, 'aria-keyshortcuts': key });
  }

  row(structure, index) {
    const { name, status, quality } = structure;
    const fill = h('span', { class: 'fill' });
    fill.style.width = `${100 * (quality ?? 0)}%`;
    const tick = h('span', { class: 'tick' });
    tick.style.left = `${100 * structure.threshold}%`;
    const swatch = h('button', { type: 'button', class: 'swatch', 'aria-pressed': String(!this.viewer.display.hidden.has(name)), 'aria-label': `Show ${name}`, onclick: () => this.toggleStructure(index) }, index < 9 ? String(index + 1) : '');
    swatch.style.setProperty('--colour', css(colour(index)));
    const text = status === 'absent' ? 'not found' : percent(quality ?? 0, 0);
    const bound = boundText(structure.lower_bound);
    const certain = bound && `${bound}, certainty ${percent(structure.certainty, 0)}`;
    const choices = Object.entries(SOURCES).map(([source, { text: label, title }]) => button(label, () => this.choose(name, source), {
      'data-source': source, disabled: source !== 'absent' && !structure[source], 'aria-label': `${name}: ${label}`, 'aria-pressed': String(this.sources[name] === source), title,
    }));
    return h('li', { class: status, 'data-structure': name, onmouseenter: () => this.viewer.highlight(name), onmouseleave: () => this.viewer.highlight(null) }, swatch,
      h('button', { type: 'button', class: 'label', title: structure.slices ? 'go to the slice with its largest area' : name, onclick: () => this.viewer.goToStructure(structure) }, name),
      status !== 'absent' && h('span', { class: 'bar', role: 'img', 'aria-label': `quality ${text}, ${status}` }, fill, tick), h('span', { class: 'number' }, text),
      status !== 'absent' && h('span', { class: 'number bound', title: certain ?? 'no lower bound of Dice: too few labelled cases', 'aria-label': certain ?? 'no lower bound' }, bound ? bound.replace('Dice ', '') : '–'),
      h('span', { class: 'segments', role: 'group', 'aria-label': `Source of ${name}` }, this.current.state === 'waiting' && this.me.may.review ? choices : null));
  }

  choose(name, source) {
    this.sources[name] = source;
    const row = this.rows.find((item) => item.dataset.structure === name);
    row.classList.remove('undecided');
    for (const item of row.querySelectorAll('[data-source]')) item.setAttribute('aria-pressed', String(item.dataset.source === source));
  }

  toggleStructure(index) {
    const structure = this.current?.structures[index];
    if (!structure) return;
    this.viewer.toggleStructure(structure.name);
    this.showHidden();
  }

  showHidden() {
    for (const row of this.rows) row.querySelector('.swatch').setAttribute('aria-pressed', String(!this.viewer.display.hidden.has(row.dataset.structure)));
  }

  /** Open the case in the editor, which comes back to the queue. */
  edit() {
    if (this.current?.state === 'waiting' && this.me.may.annotate) location.hash = `#edit/${encodeURIComponent(this.current.case)}`;
  }

  // ---- decisions ----

  /** Send a decision (key of RESULTS). acceptAll: use SAM's masks for structures without a source. */
  async decide(decision, acceptAll = false) {
    const data = this.current;
    if (!data || this.busy || data.state !== 'waiting' || !this.me.may.review) return;
    const body = { digest: data.digest };
    if (decision === 'accept') {
      if (acceptAll) for (const s of data.structures) if (this.sources[s.name] === null && s.refined) this.choose(s.name, 'refined');
      const undecided = this.rows.filter((row) => this.sources[row.dataset.structure] === null);
      if (undecided.length) {
        for (const row of undecided) row.classList.add('undecided');
        undecided[0].querySelector('[data-source]:not(:disabled)').focus();
        const names = undecided.map((row) => row.dataset.structure).join(', ');
        notice(`Select a source for ${names}: an accepted label is complete. Shift+A selects SAM for all without a source.`, { error: true });
        return;
      }
      body.structures = this.sources;
    }
    this.busy = true;
    this.panel.classList.add('busy');
    try {
      await post(reviewPath(data.case, `/${decision}`), body);
      this.lastDecided = data.case;
      this.details.delete(data.case);
      notice(`${data.case}: ${RESULTS[decision]}.`, { action: { text: 'Undo', run: () => this.undo(data.case) } });
      await this.queue.reload(this.queue.successor(data.case));
    } catch (error) {
      notice(error.message, { error: true });
      this.details.delete(data.case);
      if (error.status === 409) await this.queue.reload(data.case);
    } finally {
      this.busy = false;
      this.panel.classList.remove('busy');
    }
    this.refresh();
  }

  async undo(name = this.lastDecided) {
    if (!name || this.busy || !this.me.may.review) return;
    this.busy = true;
    try {
      const { undone } = await remove(reviewPath(name, '/decision'));
      notice(`${name}: no longer ${undone}; it is waiting for review again.`);
      this.lastDecided = null;
      this.details.delete(name);
      if (this.current?.case === name) this.current = null;
      await this.queue.loadWaiting(name);
    } catch (error) {
      notice(error.message, { error: true });
    } finally {
      this.busy = false;
    }
    this.refresh();
  }

  // ---- keyboard ----

  key(event) {
    const movesSlider = /^(Arrow|Page|Home|End)/.test(event.key);
    if (event.target.matches('select') || (event.target.matches('input') && movesSlider)) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    if (event.key === ' ' && event.target.matches('button, a')) return;
    const { viewer } = this, move = (distance) => this.queue.move(this.current?.case, distance);
    const actions = {
      a: () => this.decide('accept'), A: () => this.decide('accept', true), r: () => this.decide('reject'), s: () => this.decide('send'), e: () => this.edit(), u: () => this.undo(),
      j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1),
      ArrowUp: () => viewer.step(1), ArrowDown: () => viewer.step(-1), PageUp: () => viewer.step(10), PageDown: () => viewer.step(-10),
      x: () => viewer.setAxis('x'), y: () => viewer.setAxis('y'), z: () => viewer.setAxis('z'),
      m: () => viewer.toggle('refined'), c: () => viewer.toggle('student'), f: () => viewer.toggle('filled'), '+': () => viewer.zoomBy(1.4), '=': () => viewer.zoomBy(1.4),
      '-': () => viewer.zoomBy(1 / 1.4), Home: () => viewer.fitToWindow(), ' ': () => { viewer.display.masks = false; viewer.draw(); }, 0: () => this.toggleAll(),
    };
    const action = actions[event.key] ?? (/^[1-9]$/.test(event.key) ? () => this.toggleStructure(Number(event.key) - 1) : null);
    if (!action || (event.repeat && 'aArsu'.includes(event.key))) return;
    event.preventDefault();
    action();
  }

  keyUp(event) {
    if (event.key !== ' ') return;
    this.viewer.display.masks = true;
    this.viewer.draw();
  }

  toggleAll() {
    const { hidden } = this.viewer.display;
    if (hidden.size) hidden.clear();
    else for (const structure of this.current?.structures ?? []) hidden.add(structure.name);
    this.viewer.redraw();
    this.showHidden();
  }
}
