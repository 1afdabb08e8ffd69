// Overview: counts, served student, running jobs, schedule and rounds.

import { post, put, remove } from './api.js';
import { diceChart, trainingChart } from './chart.js';
import { effortCard } from './effort.js';
import { button, confirmAction, dateTime, duration, h, notice, percent } from './dom.js';

const bar = (value, name) => h('progress', { max: '100', value: value === null ? null : String(value), 'aria-label': name });

export class Overview {
  name = 'overview';

  constructor(main, me, overview, refresh) {
    this.me = me;
    this.refresh = refresh;
    this.key = 'mean';
    this.drawnData = {};
    this.parts = Object.fromEntries(['counts', 'problems', 'served', 'jobs', 'schedule', 'effort', 'curve', 'rounds'].map((name) => [name, h('section', { class: `card ${name}` })]));
    main.append(this.parts.counts, this.parts.problems, h('div', { class: 'columns' }, this.parts.served, this.parts.jobs, this.parts.schedule), this.parts.effort, this.parts.curve, this.parts.rounds);
    this.update(overview);
  }

  /** Redraw changed parts only, so that focus and selections are preserved. */
  update(overview) {
    this.overview = overview;
    this.draw('counts', overview.counts, () => this.counts());
    this.draw('problems', overview.problems, () => this.problems());
    this.draw('served', overview.served, () => this.served());
    this.draw('jobs', overview.jobs, () => this.jobs());
    this.draw('schedule', overview.schedule, () => this.schedule());
    this.parts.effort.hidden = !overview.effort;
    this.draw('effort', overview.effort, () => effortCard(overview.effort));
    this.draw('curve', [overview.rounds, this.key], () => this.curve());
    this.draw('rounds', [overview.rounds, overview.served?.id], () => this.rounds());
  }

  draw(name, data, content) {
    const text = JSON.stringify(data);
    if (this.drawnData[name] === text) return;
    this.drawnData[name] = text;
    const focused = this.parts[name].contains(document.activeElement) ? document.activeElement.id : null;
    this.parts[name].replaceChildren(...content().flat(Infinity).filter(Boolean));
    if (focused) document.getElementById(focused)?.focus();
  }

  counts() {
    const n = this.overview.counts;
    const figure = (value, name, note, href) => h(href ? 'a' : 'div', { class: 'figure', href },
      h('strong', {}, String(value)), h('span', {}, name), note && h('small', {}, note));
    const percentage = (value) => `${n.images ? (100 * value) / n.images : 0}`;
    const bar = h('div', { class: 'proportions', role: 'img', 'aria-label': `${n.labelled} labelled, ${n.pseudo_labelled} pseudo-labelled, ${n.unlabelled} without a label, of ${n.images} images` });
    for (const [kind, value] of [['labelled', n.labelled], ['pseudo', n.pseudo_labelled]]) {
      const part = h('span', { class: kind });
      part.style.width = `${percentage(value)}%`;
      bar.append(part);
    }
    const drawn = n.labelled - n.accepted;
    return [h('h2', { class: 'sr' }, 'Cases'), h('div', { class: 'figures' },
      figure(n.images, 'images', [n.excluded > n.flagged && `${n.excluded - n.flagged} test cases`, n.flagged && `${n.flagged} flagged`].filter(Boolean).join(', ')),
      figure(n.labelled, 'labelled', [`${drawn} drawn`, `${n.accepted} accepted`, n.approved && `${n.approved} approved by reviewers`].filter(Boolean).join(', ')),
      figure(n.held_out, 'held out', `${n.held_out_labelled} of them labelled`),
      figure(n.pseudo_labelled, 'pseudo-labelled', `${n.structures_accepted} structures, ${n.structures_rejected} below threshold`),
      figure(n.waiting, 'waiting for review', n.rejected ? `${n.rejected} rejected` : 'lowest quality first', '#review'),
      figure(n.sent, 'sent to annotators', 'offered first')), bar];
  }

  problems() {
    const problems = this.overview.problems;
    this.parts.problems.hidden = !problems.length;
    return [h('details', {}, h('summary', {}, h('h2', {}, 'Ignored files and other problems'), h('span', { class: 'badge' }, String(problems.length))),
      h('ul', {}, problems.map((text) => h('li', {}, text))))];
  }

  served() {
    const round = this.overview.served;
    if (!round) return [h('h2', {}, 'Served student'), h('p', { class: 'empty' }, 'None yet. The student of the first completed round will be served.')];
    const dice = round.dice?.challenger?.mean;
    const title = h('h2', {}, 'Served student');
    const facts = h('p', { class: 'lead' }, h('strong', {}, round.id), typeof dice === 'number' ? ` · Dice ${percent(dice)} on ${round.held_out} held-out cases` : ' · not measured');
    const action = round.how === 'rollback' ? 'rolled back to' : 'promoted';
    const details = h('p', {}, `${round.labels} labels and ${round.pseudo} pseudo labels. ${action[0].toUpperCase()}${action.slice(1)} ${dateTime(round.since)}${round.by ? ` by ${round.by}` : ''}.`);
    const validated = round.dice_bound?.cross_validated;
    const bound = validated && h('p', { class: 'small' }, `Lower bounds of Dice with a certainty of ${percent(round.dice_bound.certainty, 0)}: true for ${percent(validated.coverage, 0)} of ${validated.structures} structures of labelled cases that were left out.`);
    const rollBack = this.me.may.administer && round.before && button(`Roll back to ${round.before}`, () => this.rollBack(round.before), { id: 'roll-back' });
    const fault = this.overview.served_fault && h('p', { class: 'error-text' }, `Unusable: ${this.overview.served_fault}.`);
    return [title, fault, facts, details, bound, rollBack];
  }

  jobs() {
    const jobs = this.overview.jobs;
    const title = h('h2', {}, 'Running');
    const training = jobs.some((job) => job.kind === 'train' || job.kind === 'round');
    const start = this.me.may.administer && !training && button('Start a round now', () => this.start(), { id: 'start-round' });
    if (!jobs.length) return [title, h('p', { class: 'empty' }, 'No job is running.'), start];
    const scoring = jobs.some((job) => job.kind === 'scoring') && h('p', { class: 'small' }, 'Active-learning scores are being computed.');
    return [title, jobs.filter((job) => job.kind !== 'scoring').map((job) => h('div', { class: 'job' },
      h('p', {}, h('strong', {}, job.round ? `Round ${job.round}` : job.name[0].toUpperCase() + job.name.slice(1)), job.reason ? ` · ${job.reason}` : ''),
      this.steps(job),
      job.kind === 'train' && this.me.may.administer && button('Stop', () => this.stop(), { id: 'stop-job' }))), scoring, start];
  }

  /** Progress bars of the started steps of a job; the current step also as text. */
  steps(job) {
    if (!job.steps.some((step) => step.step === job.step)) return [bar(null, job.step), h('p', { class: 'small' }, job.step)];
    return h('ol', { class: 'steps' }, job.steps.map((step) => {
      if (step.step !== job.step) return h('li', {}, h('span', { class: 'small' }, step.step), bar(step.percent ?? 100, step.step));
      const hasTotal = step.percent !== null;
      const left = step.seconds_left >= 1 ? `, about ${duration(step.seconds_left)} left in this step` : '';
      const text = `${step.step}${hasTotal ? `: ${step.done} of ${step.total} (${Math.round(step.percent)} %)` : ''}${left}`;
      return h('li', { 'aria-current': 'step' }, h('span', {}, text), bar(step.percent, step.step));
    }));
  }

  schedule() {
    const s = this.overview.schedule;
    const triggers = [s.every_labels && `after every ${s.every_labels} new labels`, s.at && `at ${s.at} o’clock`].filter(Boolean).join(' and ');
    const title = h('h2', {}, 'Schedule');
    if (!triggers) return [title, h('p', { class: 'empty' }, 'No schedule in the task file: rounds are started manually.')];
    const facts = [`A round starts ${triggers}.`, `${s.new_labels} new labels since the last round.`];
    if (s.next_time) facts.push(`Next start: ${dateTime(Date.parse(s.next_time) / 1000)}.`);
    if (s.pending) facts.push(`Due: ${s.pending}${s.waiting ? `; waiting: ${s.waiting}` : ''}.`);
    else if (s.repeat && s.repetition) facts.push(`No further round on the same labels: ${s.repetition}.`);
    const toggle = this.me.may.administer && button(s.paused ? 'Resume' : 'Pause', () => this.pause(!s.paused), { id: 'pause' });
    return [title, h('p', { class: 'lead' }, h('strong', {}, s.paused ? 'Paused' : 'Active')), h('p', {}, facts.join(' ')),
      s.last_error && h('p', { class: 'error-text' }, s.last_error), toggle];
  }

  curve() {
    const select = h('select', { id: 'curve-key', onchange: () => { this.key = select.value; this.update(this.overview); } },
      h('option', { value: 'mean' }, 'mean of all structures'), this.overview.study.structures.map((name) => h('option', { value: name }, name)));
    select.value = this.key;
    return [h('div', { class: 'head' }, h('h2', {}, 'Dice on the hold-out, by round'), h('label', {}, 'structure ', select)), diceChart(this.overview.rounds, this.key)];
  }

  rounds() {
    const rounds = [...this.overview.rounds].reverse();
    const title = h('h2', {}, 'Rounds');
    if (!rounds.length) return [title, h('p', { class: 'empty' }, 'None yet. Label a few cases, then start a round.')];
    const columns = ['round', 'started', 'reason', 'labels', 'pseudo', 'Dice', 'champion', 'decision', ''];
    return [title, h('div', { class: 'scroll' }, h('table', {},
      h('thead', {}, h('tr', {}, columns.map((name) => h('th', { scope: 'col', class: ['labels', 'pseudo', 'Dice', 'champion'].includes(name) ? 'number' : null }, name)))),
      h('tbody', {}, rounds.map((round) => this.row(round)))))];
  }

  row(round) {
    const served = round.id === this.overview.served?.id;
    const time = round.finished ? ` (${duration(round.finished - round.started)})` : '';
    const outcome = round.error ? h('span', { class: 'error-text' }, round.error) : round.decision || round.status;
    const action = served ? h('span', { class: 'tag' }, 'served')
      : this.me.may.administer && round.servable && button('Promote', () => this.promote(round), { id: `promote-${round.id}`, 'aria-label': `Promote ${round.id}` });
    const numberCell = (value) => h('td', { class: 'number' }, value);
    return h('tr', { class: served ? 'served' : null }, h('th', { scope: 'row' }, round.id), h('td', { class: 'nowrap' }, dateTime(round.started), h('small', {}, time)),
      h('td', {}, round.reason), numberCell(String(round.labels)), numberCell(String(round.pseudo)), numberCell(percent(round.dice?.challenger?.mean)),
      numberCell(percent(round.dice?.champion?.mean)), h('td', { class: 'decision' }, outcome, this.training(round), this.leftOut(round)), h('td', {}, action));
  }

  /** Collapsed curve of the student's training; null before its end. */
  training(round) {
    if (!round.training?.curve.length) return null;
    const { steps, ending } = round.training;
    const endings = { converged: `converged after ${steps} steps`, budget: `stopped by the budget after ${steps} steps`, fixed: `trained for ${steps} steps` };
    return h('details', {}, h('summary', {}, endings[ending]), trainingChart(round.training));
  }

  /** Collapsed list of cases that a round did not use, with reasons; null if there are none. */
  leftOut(round) {
    const cases = [...Object.entries(round.left_out).map(([id, reason]) => [`${id}: not used for training`, reason]),
      ...Object.entries(round.not_compared).map(([id, reason]) => [`${id}: not used for the comparison`, reason])];
    if (!cases.length) return null;
    return h('details', { class: 'left-out' }, h('summary', {}, `${cases.length} case${cases.length > 1 ? 's' : ''} left out`),
      h('ul', {}, cases.map(([text, reason]) => h('li', {}, `${text}: ${reason}`))));
  }

  // ---- actions of administrators ----

  async act(request, message) {
    try {
      await request();
      notice(message);
    } catch (error) {
      notice(error.message, { error: true });
    }
    await this.refresh();
  }

  async promote(round) {
    const dice = percent(round.dice?.challenger?.mean), current = percent(this.overview.served?.dice?.challenger?.mean);
    const text = `All clients will use ${round.id} (Dice ${dice}; served now: ${current}). You can roll back.`;
    if (await confirmAction(`Serve ${round.id}?`, text, 'Promote')) this.act(() => post(`samstudent/rounds/${round.id}/promote`), `${round.id} is served now.`);
  }

  async rollBack(before) {
    const text = `All clients will use ${before} again.`;
    if (await confirmAction(`Roll back to ${before}?`, text, 'Roll back')) this.act(() => post('samstudent/rollback'), `${before} is served again.`);
  }

  pause(paused) {
    this.act(() => put('samstudent/schedule', { paused }), paused ? 'The schedule is paused; a pending round is kept.' : 'The schedule is active.');
  }

  async start() {
    const text = 'A round generates pseudo labels, trains a student on them and on all human labels, and serves it if it is not worse than the champion.';
    if (await confirmAction('Start a round?', text, 'Start')) this.act(() => post('train/student'), 'A round has been started.');
  }

  async stop() {
    const text = 'The progress of the training is lost; the served student does not change.';
    if (await confirmAction('Stop the training?', text, 'Stop')) this.act(() => remove('train/'), 'The training has been stopped.');
  }
}
