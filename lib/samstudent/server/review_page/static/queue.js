// List of the review queue, with filters by state and structure, in pages.

import { get } from './api.js';
import { boundText, button, dateTime, h, notice, percent } from './dom.js';

const PAGE_SIZE = 50;
/** Orders of waiting cases, and lower bounds of Dice for the filter. */
const ORDERS = { quality: 'lowest quality first', bound: 'lowest bound first' };
const BOUNDS = [0.8, 0.85, 0.9, 0.95];
/** Review states and their names in the filter. */
export const STATES = { waiting: 'waiting for review', sent: 'sent to annotators', rejected: 'rejected', accepted: 'accepted' };

export class Queue {
  /** overview: response of `samstudent/overview`; select: async function that shows a case by name, null: none;
   *  bulk: element below the filters. */
  constructor(overview, select, bulk = null) {
    this.select = select;
    this.page = { total: 0, first: 0, cases: [], counts: overview.counts };
    this.selected = null;

    const option = (value, text) => h('option', { value }, text);
    this.state = h('select', { id: 'state', onchange: () => this.load() }, Object.entries(STATES).map(([value, text]) => option(value, text)));
    this.structure = h('select', { id: 'structure', onchange: () => this.load() }, option('', 'all structures'), overview.study.structures.map((name) => option(name, name)));
    this.order = h('select', { id: 'order', onchange: () => this.load() }, Object.entries(ORDERS).map(([value, text]) => option(value, text)));
    this.bound = h('select', { id: 'bound', onchange: () => this.load() }, option('', 'any bound'), BOUNDS.map((dice) => option(dice, `Dice ≥ ${dice.toFixed(2)}`)));
    this.items = h('ol', { class: 'queue-items', id: 'queue' });
    this.pager = h('div', { class: 'pager' });
    this.element = h('section', { class: 'queue', 'aria-label': 'Review queue' },
      h('div', { class: 'filters' }, h('label', {}, h('span', { class: 'sr' }, 'Cases'), this.state), h('label', {}, h('span', { class: 'sr' }, 'Structure'), this.structure),
        h('label', {}, h('span', { class: 'sr' }, 'Order'), this.order), h('label', {}, h('span', { class: 'sr' }, 'Lower bound of Dice'), this.bound), bulk),
      this.items, this.pager);
  }

  /** Request a page of the list with the present filters. first: index of the page's first case. */
  requestPage(first) {
    const query = new URLSearchParams({ state: this.state.value, first, count: PAGE_SIZE });
    if (this.structure.value) query.set('structure', this.structure.value);
    if (this.order.value !== 'quality') query.set('order', this.order.value);
    if (this.bound.value) query.set('bound', this.bound.value);
    return get(`samstudent/review?${query}`);
  }

  /** Load a page and select a case of it. first: index of the page's first case; name: of the case, null: the first one. */
  async load(first = 0, name = null) {
    const request = this.requestPage(first);
    this.lastLoad = request;
    let page;
    try {
      page = await request;
    } catch (error) {
      notice(error.message, { error: true });
      return;
    }
    if (this.lastLoad !== request) return; // another page was requested in the meantime
    this.page = page;
    this.show();
    await this.select(name ?? this.firstCase());
  }

  /** Load the present page again and keep the selection. */
  async reload(name) {
    await this.load(this.page.first, name);
  }

  /** Load all waiting cases and select one of them. */
  async loadWaiting(name) {
    this.state.value = 'waiting';
    await this.load(0, name);
  }

  /** Update the present page if the counts have changed; returns whether it was updated. */
  async update(counts) {
    if (!Object.keys(STATES).some((state) => this.page.counts[state] !== counts[state])) return false;
    const before = this.page;
    const page = await this.requestPage(before.first).catch(() => null);
    if (!page || this.page !== before) return false;
    this.page = page;
    this.show();
    return true;
  }

  show() {
    const { total, first, cases, counts } = this.page;
    for (const option of this.state.options) option.textContent = `${STATES[option.value]} (${counts[option.value]})`;
    this.items.replaceChildren(...cases.map((item) => this.item(item)));
    if (!cases.length) this.items.append(h('li', { class: 'empty' }, this.state.value === 'waiting' ? 'No case is waiting for review.' : 'None.'));
    const end = Math.min(first + PAGE_SIZE, total);
    this.pager.replaceChildren(...(total > PAGE_SIZE ? [
      button('‹', () => this.load(first - PAGE_SIZE), { disabled: first === 0, 'aria-label': 'Previous cases' }), h('span', {}, `${first + 1}–${end} of ${total}`),
      button('›', () => this.load(first + PAGE_SIZE), { disabled: end >= total, 'aria-label': 'Next cases' })] : [h('span', {}, `${total} case${total === 1 ? '' : 's'}`)]));
  }

  item(item) {
    const lowest = item.worst === null ? 'nothing found' : percent(item.worst, 0);
    const bound = boundText(item.lower_bound);
    const note = item.state === 'waiting' ? (item.rejected ? `${item.rejected} below threshold` : '') : `${item.who ?? ''} ${dateTime(item.time)}`;
    return h('li', {}, h('button', { type: 'button', 'data-case': item.case, 'aria-current': item.case === this.selected ? 'true' : null, onclick: () => this.select(item.case) },
      h('span', { class: 'name' }, item.case), h('span', { class: 'quality', title: bound ? `lowest estimated quality; ${bound}` : 'lowest estimated quality' }, lowest), h('small', {}, [note, bound].filter(Boolean).join(' · '))));
  }

  /** Mark a case as selected, and scroll to it. */
  mark(name) {
    this.selected = name;
    for (const item of this.items.querySelectorAll('button')) {
      const isSelected = item.dataset.case === name;
      if (isSelected) item.setAttribute('aria-current', 'true');
      else item.removeAttribute('aria-current');
      if (isSelected) item.scrollIntoView({ block: 'nearest' });
    }
  }

  // ---- order ----

  firstCase() {
    return this.page.cases[0]?.case ?? null;
  }

  position(name) {
    return this.page.cases.findIndex((item) => item.case === name);
  }

  /** Case after another one on this page, or null. */
  next(name) {
    return this.page.cases[this.position(name) + 1]?.case ?? null;
  }

  /** Case to show when another one leaves the queue: the next one, else the previous one, else null. */
  successor(name) {
    return this.next(name) ?? this.page.cases[this.position(name) - 1]?.case ?? null;
  }

  /** Select the case at a distance from another one; at the end of a page, load the next or previous page. */
  async move(name, distance) {
    const { first, cases, total } = this.page;
    const index = this.position(name) + distance;
    if (index >= 0 && index < cases.length) await this.select(cases[index].case);
    else if (index >= PAGE_SIZE && first + index < total) await this.load(first + PAGE_SIZE);
    else if (index < 0 && first > 0) await this.load(first - PAGE_SIZE);
  }
}
