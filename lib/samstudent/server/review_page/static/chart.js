// Charts of Dice as SVG. By round: points for the trained students, a line for the served students, bars for the labels.
// By step of a training: a line for the batches, points for cases that did not train.

import { h, percent, svg } from './dom.js';

const WIDTH = 1240, HEIGHT = 210, LEFT = 44, RIGHT = 40, TOP = 14, BOTTOM = 26;

/** `rounds`: rounds of the overview, oldest first; `key`: "mean" or the name of a structure. */
export function diceChart(rounds, key) {
  const measured = rounds.filter((round) => typeof round.dice?.challenger?.[key] === 'number');
  if (!measured.length) {
    return h('p', { class: 'empty' }, rounds.length ? 'No round with a Dice yet: label hold-out cases.' : 'No round yet.');
  }
  const challengers = measured.map((round) => round.dice.challenger[key]);
  // Student served after each round: the challenger if it was promoted, otherwise the champion of its comparison.
  const served = measured.map((round, i) => (round.promoted ? challengers[i] : round.dice?.champion?.[key] ?? null));
  const values = [...challengers, ...served.filter((value) => value !== null)];
  const range = Math.max(...values) - Math.min(...values);
  const tick = range < 0.16 ? 0.05 : range < 0.4 ? 0.1 : 0.2;
  const high = Math.ceil(Math.max(...values) / tick + 1e-9) * tick;
  const low = Math.max(0, Math.min(Math.floor(Math.min(...values) / tick), Math.round(high / tick) - 3) * tick);
  const maxLabels = Math.max(...measured.map((round) => round.labels), 1);
  const step = (WIDTH - LEFT - RIGHT) / measured.length;
  const x = (i) => LEFT + step * (i + 0.5);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low));
  const bar = (count) => (HEIGHT - TOP - BOTTOM) * 0.45 * (count / maxLabels);

  const grid = [];
  for (let value = low; value < high + tick / 2; value += tick) {
    grid.push(svg('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg('text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, percent(value, 0)));
  }
  const bars = measured.map((round, i) => svg('rect', {
    class: 'labels', x: x(i) - Math.min(step * 0.3, 14), width: Math.min(step * 0.6, 28), y: HEIGHT - BOTTOM - bar(round.labels), height: bar(round.labels),
  }, svg('title', {}, `${round.id}: ${round.labels} labels`)));
  const interval = Math.ceil(measured.length / 24);
  const names = measured.map((round, i) => (i % interval ? null : svg('text', { x: x(i), y: HEIGHT - 8, 'text-anchor': 'middle' }, round.id)));
  const path = served.map((value, i) => (value === null ? null : `${x(i)},${y(value)}`)).filter(Boolean).join(' ');
  const points = measured.map((round, i) => svg('circle', {
    class: round.promoted ? 'promoted' : 'not-promoted', cx: x(i), cy: y(challengers[i]), r: 4.5,
  }, svg('title', {}, `${round.id}: ${percent(challengers[i])}, ${round.labels} labels, ${round.pseudo} pseudo labels${round.promoted ? ', served' : ', not served'}`)));
  const text = measured.map((round, i) => `${round.id} ${percent(challengers[i])}`).join(', ');
  return h('figure', { class: 'chart' },
    svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': `Dice on the hold-out by round: ${text}` },
      grid, bars, svg('polyline', { class: 'served', points: path }), points, names,
      svg('text', { x: WIDTH - RIGHT + 6, y: HEIGHT - BOTTOM - bar(maxLabels) + 4 }, String(maxLabels)),
      svg('text', { x: WIDTH - RIGHT + 6, y: HEIGHT - BOTTOM + 4 }, '0')),
    h('figcaption', {}, h('span', { class: 'key promoted' }), 'new student, served', h('span', { class: 'key not-promoted' }), 'not served',
      h('span', { class: 'key served' }), 'served student', h('span', { class: 'key labels' }), 'labels (right axis)'));
}

/** `training`: of a round's record: steps, ending, curve. */
export function trainingChart(training) {
  const width = 360, height = 90, left = 40, top = 8, bottom = 16;
  const { curve, steps, coarse } = training;
  const x = (step) => left + (width - left - 6) * (step / steps);
  const y = (value) => top + (height - top - bottom) * (1 - value);
  const ticks = [0, 0.5, 1].map((value) => [
    svg('line', { class: 'grid', x1: left, x2: width - 6, y1: y(value), y2: y(value) }),
    svg('text', { x: left - 4, y: y(value) + 4, 'text-anchor': 'end' }, percent(value, 0))]);
  const line = curve.map((point) => `${x(point.step)},${y(point.train)}`).join(' ');
  const points = curve.filter((point) => point.validation !== null).map((point) => svg('circle', { class: 'promoted', cx: x(point.step), cy: y(point.validation), r: 3 },
    svg('title', {}, `step ${point.step}: ${percent(point.validation)} on cases that did not train`)));
  const last = curve.at(-1);
  const enlarged = coarse ? [svg('line', { class: 'enlarged', x1: x(coarse), x2: x(coarse), y1: top, y2: height - bottom }),
    svg('text', { x: x(coarse), y: height - 3, 'text-anchor': 'middle' }, 'full size')] : [];
  return h('figure', { class: 'chart training' },
    svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Dice of the training batches over ${steps} steps, ${percent(last?.train)} at the end` },
      ticks, enlarged, svg('polyline', { class: 'served', points: line }), points, svg('text', { x: width - 6, y: height - 3, 'text-anchor': 'end' }, `${steps} steps`)));
}
