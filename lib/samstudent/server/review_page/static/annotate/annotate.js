// Tab Annotate, and the editor of Review: a case, its drawing, SAM, drafts, and what becomes of them on the server.

import { annotatePath, get, post, put, putFile, query, remove } from '../api.js';
import { h, notice } from '../dom.js';
import { colour } from '../masks.js';
import { Cases } from './cases.js';
import { Clock } from './clock.js';
import { askReason, showVersions } from './dialogs.js';
import { DraftKeeper } from './drafts.js';
import { Drawing } from './drawing.js';
import { Editor } from './editor.js';
import { Mask, unrecorded } from './mask.js';
import { Panel } from './panel.js';
import { Slices } from './slices.js';
import { Source } from './source.js';

const DIGIT_DELAY = 700; // milliseconds in which a second digit belongs to the first

export class Annotate {
  name = 'annotate';

  constructor(main, me, overview, refresh) {
    this.me = me;
    this.may = me.may;
    this.refresh = refresh;
    this.client = clientName(me);
    this.clock = new Clock();
    this.drawing = null;
    this.editing = false; // opened from Review
    this.shortcuts = SHORTCUTS;
    this.editor = new Editor({
      colours: (index) => this.colour(index), ask: (prompts) => this.ask(prompts), say: (text) => notice(text), wheel: (event) => this.slices.wheel(event), input: () => this.clock.input(),
    });
    this.slices = new Slices((axis, index) => this.showPlane(axis, index));
    this.panel = new Panel(this);
    this.drafts = new DraftKeeper(() => ({ case: this.data.case, label: this.drawing.encoded(this.base, this.clock.seconds) }), this.client, (text) => { this.panel.saved.textContent = text; });
    this.strategy = null; // of the last request for a next case; a submission is followed by another one
    this.cases = new Cases(this.client, (name) => { this.strategy = null; location.hash = `#annotate/${encodeURIComponent(name)}`; }, (strategy) => this.next(strategy));
    main.append(this.cases.element, h('div', { class: 'viewer' }, this.editor.stage.element, this.slices.element, this.editor.toolbar), this.panel.element);
    this.saveNow = () => { if (document.hidden) this.drafts.flush(); };
    document.addEventListener('visibilitychange', this.saveNow);
    this.ticker = setInterval(() => this.panel.showTime(), 1000);
  }

  async close() {
    document.removeEventListener('visibilitychange', this.saveNow);
    clearInterval(this.ticker);
    this.editor.stage.close();
    await this.drafts.flush();
  }

  update() {
    if (!this.cases.page) this.cases.load();
  }

  /** Colour of a structure: Slicer's for the same name, if the person wants it and Slicer has one, else the page's own. */
  colour(index) {
    return (this.likeSlicer && this.data?.slicer_colours[this.data.structures[index]]) || colour(index);
  }

  get likeSlicer() {
    return localStorage.getItem('samstudent-colours') === 'slicer';
  }

  toggleColours() {
    localStorage.setItem('samstudent-colours', this.likeSlicer ? 'page' : 'slicer');
    this.panel.refresh();
    this.editor.changed();
  }

  // ---- case ----

  /** Open a case; editing: of the review queue, from the pseudo label, with the way back. */
  async open(name, editing = false) {
    this.cases.load();
    if (name === null || (name === this.data?.case && editing === this.editing)) return;
    await this.drafts.flush();
    this.requested = name;
    this.editing = editing;
    this.cases.mark(name);
    try {
      const data = await get(annotatePath(name, '', { client: this.client }));
      if (this.requested !== name) return;
      await this.begin(data);
    } catch (error) {
      if (this.requested === name) this.shut(error.message);
    }
  }

  shut(text, isError = true) {
    this.drafts.forget();
    this.drawing = this.editor.drawing = this.data = null;
    this.editor.stage.show(null, null);
    delete this.editor.stage.element.dataset.shown;
    this.panel.empty(text, isError);
  }

  async begin(data) {
    const source = new Source(data), drawing = new Drawing(source.size, data.structures, data.overlap);
    const draft = data.draft && (await get(annotatePath(data.case, '/draft', { client: this.client })));
    const label = !draft && data.label.digest !== 'none' ? await get(annotatePath(data.case, '/label')) : null;
    const pseudo = !draft && !label && this.editing ? await get(annotatePath(data.case, '/predicted', { source: 'sam' })) : null;
    if (this.requested !== data.case) return;
    if (draft) drawing.load(draft.label);
    else if (label) drawing.load(label);
    else if (pseudo) drawing.take(pseudo.structures, data.structures, 'masks of SAM');
    drawing.undo.clear();
    if (!draft) drawing.actions = 0;
    Object.assign(this, { data, source, drawing, base: draft ? draft.label.base : data.label.digest });
    this.clock.start(draft ? draft.label.seconds : 0);
    this.asked = 0;
    this.panel.conflict = null;
    this.panel.saved.textContent = draft ? 'draft loaded' : '';
    drawing.onchange = () => this.changed();
    Object.assign(this.editor, { drawing, reference: [] });
    this.editor.tools.polygon.corners = [];
    const [low, high] = data.pixels.window;
    this.editor.stage.window = { low, high, inverted: false };
    this.editor.showToolbar();
    const wanted = drawing.structures.findIndex((structure) => structure.state === 'open');
    drawing.active = Math.max(0, wanted);
    this.panel.show();
    this.slices.show(data, drawing);
    if (draft && draft.label.base !== data.label.digest) this.showConflict('The label was changed since your draft.');
    await this.showPlane(this.slices.axis, this.slices.index);
  }

  async showPlane(axis, index) {
    const { source, data } = this, plane = source.plane(axis, index), { stage } = this.editor;
    const keep = stage.plane?.axis === axis && stage.element.dataset.case === data.case;
    try {
      const picture = await source.picture(axis, index);
      if (this.source !== source || this.slices.axis !== axis || this.slices.index !== index) return;
      this.editor.planeText = this.slices.text;
      stage.show(plane, picture, keep);
    } catch (error) {
      if (this.source === source) notice(error.message, { error: true });
      return;
    }
    stage.sides.forEach((side, i) => { side.textContent = axis ? data.sides[axis][i] : ''; });
    stage.element.dataset.case = data.case;
    stage.element.dataset.shown = [data.case, axis, index].filter((part) => part !== null).join(' ');
    stage.top.setAttribute('aria-label', `${data.case} ${this.slices.text}`.trim());
    if (this.may.annotate) this.prepare(axis, index);
    for (const next of this.slices.neighbours()) source.picture(axis, next).catch(() => {});
  }

  /** Let the server make the embedding of the plane, so that the first box is answered at once. */
  async prepare(axis, index) {
    const { source } = this;
    try {
      await post(annotatePath(this.data.case, '/prepare', { axis, index }));
      if (this.source === source) this.editor.stage.element.dataset.ready = [this.data.case, axis, index].filter((part) => part !== null).join(' ');
    } catch (error) {
      if (this.source === source && error.status !== 401) notice(`SAM is not ready: ${error.message}`, { error: true });
    }
  }

  changed() {
    this.clock.input();
    this.panel.refresh();
    this.editor.changed();
    this.editor.stage.invalidate('marks');
    if (this.may.annotate) this.drafts.change();
  }

  // ---- SAM ----

  /** Let SAM draw the structure for prompts; only the answer to the latest is used. */
  async ask(prompts) {
    const { drawing, data } = this, { plane } = this.editor.stage, number = (this.asked += 1), start = performance.now();
    const point = ([u, v]) => plane.mirrored(u, v);
    const box = prompts.box && [...point(prompts.box.slice(0, 2)), ...point(prompts.box.slice(2))];
    const body = { structure: drawing.structures[prompts.structure].name, box, positive: prompts.positive.map(point), negative: prompts.negative.map(point), axis: plane.axis, index: plane.axis && plane.index };
    try {
      const found = await post(annotatePath(data.case, '/sam', { client: this.client }), body);
      if (this.drawing !== drawing || number !== this.asked) return;
      this.editor.takeMask(found, prompts);
      this.latency = performance.now() - start;
      this.editor.stage.element.dataset.answered = `${number} ${Math.round(this.latency)}`;
      if (!found.box) notice('SAM found nothing there. Draw the box closer, or use the brush.');
    } catch (error) {
      if (this.drawing === drawing) notice(error.message, { error: true });
    }
  }

  /** Take the masks of a model, of the selected structure or of all that are not finished. */
  async take(source, all) {
    const { drawing, data } = this;
    const names = all ? drawing.structures.filter((structure) => !structure.finished).map(({ name }) => name) : [drawing.current.name];
    try {
      const { structures } = await get(annotatePath(data.case, '/predicted', { source }));
      if (this.drawing === drawing) drawing.take(structures, names, `masks of ${source}`);
    } catch (error) {
      notice(error.message, { error: true });
    }
  }

  // ---- structures ----

  select(index) {
    if (!this.drawing) return;
    this.drawing.select(index);
    this.panel.refresh();
    this.panel.scrollTo(index);
    this.editor.changed();
    this.editor.stage.invalidate('marks');
    this.slices.goTo(this.drawing.current);
  }

  move(distance) {
    const count = this.drawing.structures.length;
    this.select((this.drawing.active + distance + count) % count);
  }

  setState(index, state) {
    const structure = this.drawing.structures[index], same = structure.state === state;
    this.drawing.setState(structure, same ? 'open' : state);
  }

  toggleHidden(index) {
    const structure = this.drawing.structures[index];
    structure.hidden = !structure.hidden;
    this.panel.refresh();
    this.editor.changed();
  }

  toggleFinished(index = this.drawing.active) {
    const structure = this.drawing.structures[index];
    this.drawing.act(`${structure.name}: ${structure.finished ? 'not ' : ''}finished`, () => { structure.finished = !structure.finished; });
  }

  restAbsent() {
    if (!this.drawing.restAbsent()) notice('Each structure is drawn, absent or not annotated already.');
  }

  step(direction) {
    this.editor.pointer.stop();
    const name = this.drawing.step(direction);
    if (name === null) notice(direction < 0 ? 'There is nothing to undo.' : 'There is nothing to redo.');
    else this.panel.saved.textContent = `${direction < 0 ? 'undone' : 'redone'}: ${name}`;
  }

  /** A digit selects a structure; two digits within DIGIT_DELAY one above nine. */
  digit(digit) {
    const now = performance.now(), count = this.drawing.structures.length;
    const both = now - (this.digitTime ?? -Infinity) < DIGIT_DELAY ? Number(`${this.lastDigit}${digit}`) : 0;
    this.digitTime = now;
    this.lastDigit = digit;
    const number = both >= 10 && both <= count ? both : Number(digit);
    if (number >= 1 && number <= count) this.select(number - 1);
  }

  // ---- the label ----

  async submit() {
    const { drawing, data } = this;
    if (!drawing || this.busy || !this.may.annotate) return;
    const { open } = drawing;
    this.panel.markOpen(open);
    if (open.length) {
      notice(`${open.map(({ name }) => name).join(', ')}: draw, or mark as absent (a) or not annotated (n). A marks the rest as absent.`, { error: true });
      return;
    }
    this.busy = true;
    await this.drafts.flush();
    this.drafts.forget();
    try {
      await putFile(annotatePath(data.case, '/label', { client: this.client }), 'label', drawing.encoded(this.base, this.clock.seconds), { 'If-Match': `"${this.base}"` });
      notice(`${data.case}: label saved.`);
      this.leave();
    } catch (error) {
      notice(error.message, { error: true });
      if (error.status === 409) await this.reportConflict(data.case);
    } finally {
      this.busy = false;
    }
    this.refresh();
  }

  /** Go on after a case is done: to the review queue, or to the next case. */
  leave() {
    const { editing, strategy } = this;
    this.shut('Saved.', false);
    this.cases.load();
    if (editing) this.back();
    else if (strategy) this.next(strategy);
    else history.replaceState(null, '', '#annotate');
  }

  back() {
    location.hash = '#review';
  }

  async reportConflict(name) {
    const data = await get(annotatePath(name, '', { client: this.client })).catch(() => null);
    if (!data || this.data?.case !== name) return;
    this.data.label = data.label;
    this.showConflict(data.label.digest === 'none' ? 'The label was removed meanwhile.' : `The label was changed ${data.label.user ? `by ${data.label.user} ` : ''}meanwhile.`);
  }

  showConflict(text) {
    const item = (name, title, run, id) => h('button', { type: 'button', id, title, onclick: run }, name);
    const exists = this.data.label.digest !== 'none';
    this.panel.conflict = h('div', { class: 'banner', id: 'conflict' }, text, h('span', { class: 'buttons' },
      exists && item('Compare', 'show it as dashed lines', () => this.compare({ id: null }), 'compare-theirs'),
      item('Keep mine', 'your drawing replaces it when you submit; it stays in the history', () => this.keepMine(), 'keep-mine'),
      item('Take theirs', 'drop your draft', () => this.takeTheirs(), 'take-theirs')));
    this.panel.show();
  }

  keepMine() {
    this.base = this.data.label.digest;
    this.panel.conflict = null;
    this.panel.show();
    this.drafts.change();
  }

  async takeTheirs() {
    const name = this.data.case;
    this.drafts.forget();
    await remove(annotatePath(name, '/draft', { client: this.client })).catch(() => {});
    this.data = null;
    await this.open(name, this.editing);
  }

  // ---- next, flag, history ----

  async next(strategy = this.cases.strategy.value) {
    await this.drafts.flush();
    this.strategy = strategy;
    try {
      const { id, reason } = await post(`activelearning/${encodeURIComponent(strategy)}`, { client_id: this.client || undefined });
      if (!id) {
        this.strategy = null;
        notice(reason ?? 'There is no case left.');
        return;
      }
      this.cases.load();
      if (location.hash === `#annotate/${encodeURIComponent(id)}`) await this.open(id);
      else location.hash = `#annotate/${encodeURIComponent(id)}`;
    } catch (error) {
      notice(error.message, { error: true });
    }
  }

  /** Next case; a draft stays. */
  skip() {
    if (this.data) notice(`${this.data.case} is skipped${this.drawing.actions ? '; your draft is kept' : ''}.`);
    return this.next();
  }

  askFlag() {
    if (!this.data) return;
    const name = this.data.case;
    askReason(name, async (reason) => {
      try {
        await put(annotatePath(name, '/flag', { client: this.client }), { reason });
        notice(`${name} is flagged as unusable.`);
        this.leave();
      } catch (error) {
        notice(error.message, { error: true });
      }
      this.refresh();
    });
  }

  async unflag() {
    try {
      await remove(annotatePath(this.data.case, '/flag', { client: this.client }));
      this.data.flag = null;
      this.panel.show();
      this.cases.load();
    } catch (error) {
      notice(error.message, { error: true });
    }
    this.refresh();
  }

  async showHistory() {
    if (!this.data) return;
    const name = this.data.case;
    try {
      const { versions } = await get(annotatePath(name, '/history'));
      showVersions(name, versions, (version) => this.compare(version), (version) => this.restore(version));
    } catch (error) {
      notice(error.message, { error: true });
    }
  }

  async compare({ id }) {
    const { structures } = await get(annotatePath(this.data.case, `/label${query({ version: id })}`));
    this.editor.reference = this.drawing.structures.flatMap(({ name, index }) => {
      const mask = new Mask(this.source.size);
      mask.decode(structures[name], unrecorded());
      return mask.count ? [{ mask, index }] : [];
    });
    this.editor.changed();
    notice('Dashed: the other label.', { action: { text: 'Hide', run: () => { this.editor.reference = []; this.editor.changed(); } } });
  }

  async restore({ id }) {
    const { structures } = await get(annotatePath(this.data.case, `/label${query({ version: id })}`));
    this.drawing.take(structures, this.data.structures, 'earlier label');
  }

  // ---- keyboard ----

  key(event) {
    if (event.target.matches('input[type=search], select, dialog *')) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    if ((event.key === ' ' || event.key === 'Enter') && event.target.matches('button, a, summary')) return;
    this.clock.input();
    const action = event.ctrlKey || event.metaKey ? this.commandOf(event) : this.actionOf(event);
    if (!action || (event.repeat && /^[jkuUaAnyF]$/.test(event.key))) return;
    event.preventDefault();
    action();
  }

  /** Action of a key with Ctrl, or null. */
  commandOf(event) {
    if (!this.drawing) return null;
    const actions = { Enter: () => this.submit(), z: () => this.step(-1), Z: () => this.step(1), y: () => this.step(1), s: () => this.drafts.flush() };
    return actions[event.key] ?? null;
  }

  actionOf(event) {
    if (event.key === 'j') return () => this.next();
    if (!this.drawing) return null;
    if (/^\d$/.test(event.key)) return () => this.digit(event.key);
    const { active } = this.drawing;
    const actions = {
      k: () => this.skip(), u: () => this.step(-1), U: () => this.step(1), '.': () => this.move(1), ',': () => this.move(-1),
      a: () => this.setState(active, 'absent'), n: () => this.setState(active, 'unknown'), A: () => this.restAbsent(), l: () => this.toggleFinished(),
      t: () => this.take('student', false), T: () => this.take('student', true), r: () => this.take('sam', false), R: () => this.take('sam', true),
      F: () => this.askFlag(), y: () => this.showHistory(), o: () => this.toggleHidden(active), Delete: () => this.drawing.clear(),
    };
    if (event.key === 'Escape' && this.editing && !this.editor.pointer.gesture && !this.editor.tools.polygon.corners.length) return () => this.back();
    return actions[event.key] ?? this.slices.action(event) ?? this.editor.action(event);
  }

  keyUp(event) {
    if (event.key === ' ') this.editor.showMasks(true);
  }
}

/** Name of the person for drafts and reservations: of this browser, where the server has no login. */
function clientName(me) {
  if (me.login) return '';
  const name = localStorage.getItem('samstudent-client') ?? `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  localStorage.setItem('samstudent-client', name);
  return name;
}

const SHORTCUTS = [
  ['j', 'next case by the strategy'], ['k', 'skip: next case, a draft stays'], ['1 … 99', 'structure of this number'], [', .', 'previous and next structure'],
  ['s', 'SAM: drag a box around the structure, or click on it; Shift: outside of it; Alt: add a part'], ['b  e', 'brush, eraser'], ['[ ]', 'size of the brush'],
  ['g', 'polygon: click corners; Enter or double click closes it'], ['x', 'switch: clicks outside of the structure, polygons that remove'], ['h  m', 'fill holes, smooth'],
  ['t  r', 'start from the student’s mask, from SAM’s; with Shift for all structures'], ['a  n  A', 'absent, not annotated, the rest is absent'], ['l', 'finished: others do not take its pixels'],
  ['o', 'show or hide the structure'], ['Del', 'clear the structure'], ['u  U', 'undo, redo (also Ctrl z, Ctrl y)'], ['Ctrl ↵', 'submit'], ['F', 'flag as unusable'], ['y', 'history'],
  ['← ↑ → ↓', 'cursor (Shift: ten pixels); Enter presses and releases the tool there'], ['v', 'move by dragging; also the middle button or two fingers'], ['+ −  wheel', 'zoom'], ['Home', 'fit to the window'],
  ['right drag', 'window (sideways) and level (up and down)'], ['i', 'invert'], ['f', 'filled masks, or outlines'], ['Space', 'hide all masks while pressed'], ['PgUp PgDn', 'slices of a volume; z c d: direction'],
];
