// List of the cases, with search, and the next case by a strategy.

import { get, query } from '../api.js';
import { button, h, notice } from '../dom.js';

const COUNT = 100;
const STATES = { '': 'all cases', unlabelled: 'unlabelled', draft: 'drafts', sent: 'sent by reviewers', labelled: 'labelled', flagged: 'flagged' };

export class Cases {
  /** open: function that opens a case by name; next: function that requests the next case of a strategy. */
  constructor(client, open, next) {
    Object.assign(this, { client, open });
    this.strategy = h('select', { id: 'strategy', title: 'how the next case is chosen' }, h('option', { value: 'random' }, 'of the task'));
    this.nextButton = button(['Next case ', h('kbd', {}, 'j')], () => next(this.strategy.value), { id: 'next-case', class: 'primary', 'aria-keyshortcuts': 'j' });
    this.search = h('input', { type: 'search', id: 'search', placeholder: 'search', 'aria-label': 'Part of the name of a case', oninput: () => this.loadLater() });
    this.state = h('select', { id: 'case-state', 'aria-label': 'State', onchange: () => this.load() }, Object.entries(STATES).map(([value, text]) => h('option', { value }, text)));
    this.items = h('ol', { class: 'queue-items', id: 'cases' });
    this.total = h('div', { class: 'pager' });
    this.element = h('section', { class: 'queue', 'aria-label': 'Cases' },
      h('div', { class: 'filters' }, this.nextButton, h('label', {}, h('span', { class: 'sr' }, 'Strategy'), this.strategy), this.search, this.state), this.items, this.total);
    this.loadStrategies();
  }

  async loadStrategies() {
    try {
      const { strategies } = await get('info/');
      const names = Object.keys(strategies).filter((name) => name !== 'random');
      this.strategy.append(...names.map((name) => h('option', { value: name, title: strategies[name].description }, name)));
    } catch (error) {
      if (error.status !== 401) notice(error.message, { error: true });
    }
  }

  loadLater() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), 200);
  }

  async load() {
    const parameters = { client: this.client, search: this.search.value, state: this.state.value, count: COUNT };
    try {
      this.page = await get(`samstudent/annotate${query(parameters)}`);
    } catch (error) {
      if (error.status !== 401) notice(error.message, { error: true });
      return;
    }
    const { cases, total } = this.page;
    this.items.replaceChildren(...(cases.length ? cases.map((item) => this.item(item)) : [h('li', { class: 'empty' }, 'No case.')]));
    this.total.textContent = total > cases.length ? `the first ${cases.length} of ${total}` : `${total} case${total === 1 ? '' : 's'}`;
    this.mark(this.selected);
  }

  item({ case: name, state, pseudo }) {
    const text = state === 'unlabelled' && pseudo ? 'pseudo label' : state === 'unlabelled' ? '' : STATES[state].replace(/s$/, '');
    return h('li', {}, button([h('span', { class: 'name', title: name }, name), h('small', {}, text)], () => this.open(name), { 'data-case': name, 'data-state': state }));
  }

  mark(name) {
    this.selected = name;
    for (const item of this.items.querySelectorAll('button')) {
      if (item.dataset.case === name) {
        item.setAttribute('aria-current', 'true');
        item.scrollIntoView({ block: 'nearest' });
      } else item.removeAttribute('aria-current');
    }
  }
}
