// Tab Annotate, and the editor of Review: a case, its drawing, its structures and the parts around them.

import { annotatePath, get } from '../api.js';
import { h, isCommand, notice } from '../dom.js';
import { colour } from '../masks.js';
import { Assistance } from './assist.js';
import { CaseActions } from './case_actions.js';
import { Cases } from './cases.js';
import { Clock } from './clock.js';
import { DraftKeeper } from './drafts.js';
import { Drawing } from './drawing.js';
import { Editor } from './editor.js';
import { Keys, SHORTCUTS } from './keys.js';
import { Panel } from './panel.js';
import { Slices } from './slices.js';
import { Source } from './source.js';
import { Versions } from './versions.js';

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
    this.closed = false; // another tab is shown
    this.shortcuts = SHORTCUTS;
    this.keys = new Keys(this);
    this.assist = new Assistance(this);
    this.versions = new Versions(this);
    this.editor = new Editor({
      colours: (index) => this.colour(index), ask: (prompts) => this.assist.ask(prompts), say: (text) => notice(text), wheel: (event) => this.slices.wheel(event), input: () => this.clock.input(),
    });
    this.slices = new Slices((axis, index) => this.showPlane(axis, index), this.assist);
    this.panel = new Panel(this);
    this.drafts = new DraftKeeper(() => ({ case: this.data.case, label: this.drawing.encoded(this.base, this.clock.seconds) }), this.client, (text) => { this.panel.saved.textContent = text; });
    this.actions = new CaseActions(this);
    this.cases = new Cases(this.client, (name) => this.actions.choose(name), (strategy) => this.actions.next(strategy));
    main.append(this.cases.element, h('div', { class: 'viewer' }, this.editor.stage.element, this.slices.element, this.editor.toolbar), this.panel.element);
    this.saveNow = () => { if (document.hidden) this.drafts.flush(); };
    document.addEventListener('visibilitychange', this.saveNow);
    this.ticker = setInterval(() => this.panel.showTime(), 1000);
  }

  async close() {
    this.closed = true;
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
    if (name === null) return;
    this.requested = name;
    if (name === this.data?.case && editing === this.editing) return;
    await this.drafts.flush();
    if (this.requested !== name) return;
    if (this.drafts.unsaved) {
      this.stay(name);
      return;
    }
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

  /** Stay with the case whose draft the server did not take. */
  stay(other) {
    const { case: name } = this.data;
    this.requested = name;
    history.replaceState(null, '', `#${this.editing ? 'edit' : 'annotate'}/${encodeURIComponent(name)}`);
    notice(`${other} is not opened: the draft of ${name} is not saved yet, and would be lost.`, { error: true });
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
    this.assist.begin();
    this.panel.conflict = this.panel.comparison = null;
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
    if (draft && draft.label.base !== data.label.digest) this.versions.showConflict('The label was changed since your draft.');
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
    if (this.may.annotate) this.assist.prepare(axis, index);
    for (const next of this.slices.neighbours()) source.picture(axis, next).catch(() => {});
  }

  changed() {
    this.clock.input();
    this.panel.refresh();
    this.editor.changed();
    this.editor.stage.invalidate('marks');
    if (this.may.annotate) this.drafts.change();
  }

  // ---- structures ----

  select(index) {
    if (!this.drawing || this.editor.pointer.draws) return;
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

  // ---- keyboard ----

  key(event) {
    const typed = event.target.matches('input[type=search], select, dialog *'), moved = event.target.matches('input[type=range]') && /^(Arrow|Home|End|Page)/.test(event.key);
    if (typed || moved) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    if (!isCommand(event) && (event.key === ' ' || event.key === 'Enter') && event.target.matches('button, a, summary')) return;
    this.clock.input();
    const action = isCommand(event) ? this.keys.commandOf(event) : this.keys.actionOf(event);
    if (!action || (event.repeat && /^[jkuUaAnyF]$/.test(event.key))) return;
    event.preventDefault();
    action();
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
