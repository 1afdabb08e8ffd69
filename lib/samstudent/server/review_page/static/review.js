// Review queue: pseudo labels of the lowest quality first, to be accepted, rejected, or sent to an annotator.

import { get, post, remove, reviewPath } from './api.js';
import { button, h, notice, percent, when } from './dom.js';
import { colour, css } from './masks.js';
import { Viewer } from './viewer.js';

const PAGE = 50;
const STATES = { waiting: 'waiting, lowest quality first', sent: 'sent to annotators', rejected: 'rejected', accepted: 'accepted' };
const DONE = { accept: 'accepted', reject: 'rejected', send: 'sent to the annotators' };
const SOURCES = { refined: 'SAM’s', student: 'student’s', absent: 'absent' };

export class Review {
  name = 'review';

  constructor(main, me, overview, refresh) {
    this.me = me;
    this.refresh = refresh;
    this.list = { total: 0, first: 0, cases: [], counts: overview.counts };
    this.details = new Map();
    this.last = null; // the last decision, for undo
    this.current = null;
    this.viewer = new Viewer((error) => notice(error.message, { error: true }));

    const option = (value, text) => h('option', { value }, text);
    this.state = h('select', { id: 'state', onchange: () => this.load() }, Object.entries(STATES).map(([value, text]) => option(value, text)));
    this.structure = h('select', { id: 'structure', onchange: () => this.load() }, option('', 'all structures'), overview.study.structures.map((name) => option(name, name)));
    this.items = h('ol', { class: 'queue-items', id: 'queue' });
    this.pager = h('div', { class: 'pager' });
    this.panel = h('section', { class: 'panel', 'aria-label': 'This case' });
    main.append(h('section', { class: 'queue', 'aria-label': 'Review queue' },
      h('div', { class: 'filters' }, h('label', {}, h('span', { class: 'sr' }, 'Cases'), this.state), h('label', {}, h('span', { class: 'sr' }, 'Structure'), this.structure)),
      this.items, this.pager), this.viewer.element, this.panel);
  }

  leave() {
    this.viewer.leave();
  }

  async open(name) {
    if (name !== null && name === this.current?.case) return;
    await this.load(0, name);
  }

  /** Called with every new overview: other users decide, too, and rounds generate new pseudo labels. */
  async update(overview) {
    const { counts } = this.list;
    if (this.busy || !Object.keys(STATES).some((state) => counts[state] !== overview.counts[state])) return;
    const before = this.list;
    const list = await get(`samstudent/review?${this.query(before.first)}`).catch(() => null);
    if (!list || this.list !== before) return;
    this.list = list;
    this.showList();
    if (this.current === null && this.wanted === null) await this.select(list.cases[0]?.case ?? null);
  }

  // ---- the list ----

  query(first) {
    const query = new URLSearchParams({ state: this.state.value, first, count: PAGE });
    if (this.structure.value) query.set('structure', this.structure.value);
    return query;
  }

  async load(first = 0, name = null) {
    const query = this.query(first).toString();
    this.asked = query;
    let list;
    try {
      list = await get(`samstudent/review?${query}`);
    } catch (error) {
      notice(error.message, { error: true });
      return;
    }
    if (this.asked !== query) return; // the filters were changed since
    this.list = list;
    const chosen = name ?? this.list.cases[0]?.case ?? null;
    this.showList();
    await this.select(chosen);
  }

  showList() {
    const { total, first, cases, counts } = this.list;
    for (const option of this.state.options) option.textContent = `${STATES[option.value]} (${counts[option.value]})`;
    this.items.replaceChildren(...cases.map((item) => this.item(item)));
    if (!cases.length) this.items.append(h('li', { class: 'empty' }, this.state.value === 'waiting' ? 'No case is waiting for review.' : 'None.'));
    const to = Math.min(first + PAGE, total);
    this.pager.replaceChildren(...(total > PAGE ? [
      button('‹', () => this.load(first - PAGE), { disabled: first === 0, 'aria-label': 'Earlier cases' }), h('span', {}, `${first + 1}–${to} of ${total}`),
      button('›', () => this.load(first + PAGE), { disabled: to >= total, 'aria-label': 'Later cases' })] : [h('span', {}, `${total} case${total === 1 ? '' : 's'}`)]));
  }

  item(item) {
    const worst = item.worst === null ? 'nothing found' : percent(item.worst, 0);
    const more = item.state === 'waiting' ? (item.rejected ? `${item.rejected} doubtful` : '') : `${item.who ?? ''} ${when(item.time)}`;
    return h('li', {}, h('button', { type: 'button', 'data-case': item.case, 'aria-current': item.case === this.current?.case ? 'true' : null, onclick: () => this.select(item.case) },
      h('span', { class: 'name' }, item.case), h('span', { class: 'quality', title: 'lowest estimated quality' }, worst), h('small', {}, more)));
  }

  position() {
    return this.list.cases.findIndex((item) => item.case === this.current?.case);
  }

  async move(by) {
    const at = this.position() + by;
    if (at >= 0 && at < this.list.cases.length) await this.select(this.list.cases[at].case);
    else if (at >= PAGE && this.list.first + at < this.list.total) await this.load(this.list.first + PAGE);
    else if (at < 0 && this.list.first > 0) await this.load(this.list.first - PAGE);
  }

  // ---- one case ----

  detail(name) {
    if (!this.details.has(name)) {
      const wanted = get(reviewPath(name));
      wanted.catch(() => this.details.delete(name));
      this.details.set(name, wanted);
      while (this.details.size > 20) this.details.delete(this.details.keys().next().value);
    }
    return this.details.get(name);
  }

  async select(name) {
    this.wanted = name;
    for (const item of this.items.querySelectorAll('button')) {
      const here = item.dataset.case === name;
      if (here) item.setAttribute('aria-current', 'true');
      else item.removeAttribute('aria-current');
      if (here) item.scrollIntoView({ block: 'nearest' });
    }
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
      if (this.wanted !== name) return;
      this.current = null;
      this.viewer.clear();
      this.panel.replaceChildren(h('h2', {}, name), h('p', { class: 'error-text' }, error.message));
      return;
    }
    if (this.wanted !== name) return;
    this.current = data;
    this.sources = Object.fromEntries(data.structures.map((s) => [s.name, { accepted: 'refined', absent: 'absent' }[s.status] ?? null]));
    this.viewer.show(data);
    this.showPanel();
    const next = this.list.cases[this.position() + 1];
    if (next) this.detail(next.case).then((more) => this.viewer.prefetch(more), () => {});
  }

  showPanel() {
    const data = this.current;
    const made = data.provenance;
    const by = made.student ? `student ${made.student.slice(0, 8)}, ${made.sam_backend || 'no SAM'}` : '';
    const size = data.axes ? data.size.toReversed().join(' × ') : `${data.size[1]} × ${data.size[0]}`;
    this.rows = data.structures.map((structure, index) => this.row(structure, index));
    const decided = data.state !== 'waiting';
    const actions = !this.me.may.review ? h('p', { class: 'empty' }, 'Decisions require the role of a reviewer.')
      : decided ? h('div', { class: 'actions' }, button(`Undo: ${data.state}`, () => this.undo(data.case), { id: 'undo' }))
        : h('div', { class: 'actions' }, this.action('Accept', 'a', 'accept', 'primary'), this.action('Reject', 'r', 'reject'), this.action('Send', 's', 'send'));
    const status = decided ? `${STATES[data.state].split(',')[0]}${data.who ? ` by ${data.who}` : ''}, ${when(data.time)}` : `lowest ${percent(data.worst, 0)}, mean ${percent(data.mean, 0)}`;
    this.panel.replaceChildren(h('div', { class: 'about' }, h('h2', { title: data.case }, data.case), h('p', {}, status), h('p', { class: 'small', title: by }, `${size} · ${by}`)),
      h('div', { class: 'legend' }, h('span', { title: 'estimated Dice; line: threshold of the quality filter' }, 'quality'), h('span', {}, 'source')),
      h('ul', { class: 'structures' }, this.rows), actions);
  }

  action(text, key, verb, more = '') {
    return button([text, ' ', h('kbd', {}, key)], () => this.decide(verb), { id: verb, class: more, 'aria-keyshortcuts': key });
  }

  row(structure, index) {
    const { name, status, quality } = structure;
    const fill = h('span', { class: 'fill' });
    fill.style.width = `${100 * (quality ?? 0)}%`;
    const tick = h('span', { class: 'tick' });
    tick.style.left = `${100 * structure.threshold}%`;
    const swatch = h('button', { type: 'button', class: 'swatch', 'aria-pressed': String(!this.viewer.look.hidden.has(name)), 'aria-label': `Show ${name}`, onclick: () => this.toggleStructure(index) }, index < 9 ? String(index + 1) : '');
    swatch.style.setProperty('--colour', css(colour(index)));
    const text = status === 'absent' ? 'not found' : percent(quality ?? 0, 0);
    const choices = ['refined', 'student', 'absent'].map((source) => button({ refined: 'SAM', student: 'student', absent: 'none' }[source], () => this.choose(name, source), {
      'data-source': source, disabled: source !== 'absent' && !structure[source], 'aria-label': `${name}: ${SOURCES[source]}`, 'aria-pressed': String(this.sources[name] === source),
      title: { refined: 'use the mask of SAM', student: 'use the mask of the student', absent: 'the structure is not in this image' }[source],
    }));
    return h('li', { class: status, 'data-structure': name, onmouseenter: () => this.viewer.mark(name), onmouseleave: () => this.viewer.mark(null) }, swatch,
      h('button', { type: 'button', class: 'label', title: structure.slices ? 'go to the slice with its largest area' : name, onclick: () => this.viewer.seek(structure) }, name),
      status !== 'absent' && h('span', { class: 'bar', role: 'img', 'aria-label': `quality ${text}, ${status}` }, fill, tick), h('span', { class: 'number' }, text),
      h('span', { class: 'segments', role: 'group', 'aria-label': `Source of ${name}` }, this.current.state === 'waiting' && this.me.may.review ? choices : null));
  }

  choose(name, source) {
    this.sources[name] = source;
    const row = this.rows.find((item) => item.dataset.structure === name);
    row.classList.remove('open');
    for (const item of row.querySelectorAll('[data-source]')) item.setAttribute('aria-pressed', String(item.dataset.source === source));
  }

  toggleStructure(index) {
    const structure = this.current?.structures[index];
    if (!structure) return;
    this.viewer.hide(structure.name);
    this.showHidden();
  }

  showHidden() {
    for (const row of this.rows) row.querySelector('.swatch').setAttribute('aria-pressed', String(!this.viewer.look.hidden.has(row.dataset.structure)));
  }

  // ---- decisions ----

  async decide(verb, takeAll = false) {
    const data = this.current;
    if (!data || this.busy || data.state !== 'waiting' || !this.me.may.review) return;
    const body = { digest: data.digest };
    if (verb === 'accept') {
      if (takeAll) for (const s of data.structures) if (this.sources[s.name] === null && s.refined) this.choose(s.name, 'refined');
      const open = this.rows.filter((row) => this.sources[row.dataset.structure] === null);
      if (open.length) {
        for (const row of open) row.classList.add('open');
        open[0].querySelector('[data-source]:not(:disabled)').focus();
        const names = open.map((row) => row.dataset.structure).join(', ');
        notice(`Select a source for ${names}: an accepted label is complete. Shift+A selects SAM for all without a source.`, { error: true });
        return;
      }
      body.structures = this.sources;
    }
    this.busy = true;
    this.panel.classList.add('busy');
    try {
      await post(reviewPath(data.case, `/${verb}`), body);
      this.last = data.case;
      this.details.delete(data.case);
      notice(`${data.case}: ${DONE[verb]}.`, { action: { text: 'Undo', run: () => this.undo(data.case) } });
      await this.after(data.case);
    } catch (error) {
      notice(error.message, { error: true });
      this.details.delete(data.case);
      if (error.status === 409) await this.load(this.list.first, data.case);
    } finally {
      this.busy = false;
      this.panel.classList.remove('busy');
    }
    this.refresh();
  }

  /** Selects the next case after a decision, and reloads the list. */
  async after(name) {
    const at = this.list.cases.findIndex((item) => item.case === name);
    const next = this.list.cases[at + 1] ?? this.list.cases[at - 1] ?? null;
    await this.load(this.list.first, next?.case ?? null);
  }

  async undo(name = this.last) {
    if (!name || this.busy || !this.me.may.review) return;
    this.busy = true;
    try {
      const { undone } = await remove(reviewPath(name, '/decision'));
      notice(`${name}: no longer ${undone}; it is waiting for review again.`);
      this.last = null;
      this.details.delete(name);
      if (this.current?.case === name) this.current = null;
      this.state.value = 'waiting';
      await this.load(0, name);
    } catch (error) {
      notice(error.message, { error: true });
    } finally {
      this.busy = false;
    }
    this.refresh();
  }

  // ---- keyboard ----

  key(event) {
    const slides = /^(Arrow|Page|Home|End)/.test(event.key);
    if (event.target.matches('select') || (event.target.matches('input') && slides)) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    if (event.key === ' ' && event.target.matches('button, a')) return;
    const { viewer } = this;
    const actions = {
      a: () => this.decide('accept'), A: () => this.decide('accept', true), r: () => this.decide('reject'), s: () => this.decide('send'), u: () => this.undo(),
      j: () => this.move(1), ArrowRight: () => this.move(1), k: () => this.move(-1), ArrowLeft: () => this.move(-1),
      ArrowUp: () => viewer.step(1), ArrowDown: () => viewer.step(-1), PageUp: () => viewer.step(10), PageDown: () => viewer.step(-10),
      x: () => viewer.setAxis('x'), y: () => viewer.setAxis('y'), z: () => viewer.setAxis('z'),
      m: () => viewer.toggle('refined'), c: () => viewer.toggle('student'), f: () => viewer.toggle('filled'), '+': () => viewer.zoomBy(1.4), '=': () => viewer.zoomBy(1.4),
      '-': () => viewer.zoomBy(1 / 1.4), Home: () => viewer.reset(), ' ': () => { viewer.look.all = false; viewer.draw(); }, 0: () => this.toggleAll(),
    };
    const action = actions[event.key] ?? (/^[1-9]$/.test(event.key) ? () => this.toggleStructure(Number(event.key) - 1) : null);
    if (!action || (event.repeat && 'aArsu'.includes(event.key))) return;
    event.preventDefault();
    action();
  }

  keyUp(event) {
    if (event.key !== ' ') return;
    this.viewer.look.all = true;
    this.viewer.draw();
  }

  toggleAll() {
    const { hidden } = this.viewer.look;
    if (hidden.size) hidden.clear();
    else for (const structure of this.current?.structures ?? []) hidden.add(structure.name);
    this.viewer.redraw();
    this.showHidden();
  }
}
