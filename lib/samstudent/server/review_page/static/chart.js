// Dice over rounds, as SVG: each round's own student, the line of what was served, and how many labels there were.

import { h, percent, svg } from './dom.js';

const WIDTH = 1240, HEIGHT = 210, LEFT = 44, RIGHT = 40, TOP = 14, BOTTOM = 26;

/** `rounds`: of the overview, oldest first; `key`: "mean" or a structure. */
export function chart(rounds, key) {
  const measured = rounds.filter((round) => typeof round.dice?.challenger?.[key] === 'number');
  if (!measured.length) {
    return h('p', { class: 'empty' }, rounds.length ? 'No round could be measured yet: label cases of the hold-out.' : 'No round yet.');
  }
  const own = measured.map((round) => round.dice.challenger[key]);
  // What was served after each round: the new student where it was promoted, else the champion it was compared with.
  const served = measured.map((round, i) => (round.promoted ? own[i] : round.dice?.champion?.[key] ?? null));
  const values = [...own, ...served.filter((value) => value !== null)];
  const spread = Math.max(...values) - Math.min(...values);
  const tick = spread < 0.16 ? 0.05 : spread < 0.4 ? 0.1 : 0.2;
  const high = Math.ceil(Math.max(...values) / tick + 1e-9) * tick;
  const low = Math.max(0, Math.min(Math.floor(Math.min(...values) / tick), Math.round(high / tick) - 3) * tick);
  const most = Math.max(...measured.map((round) => round.labels), 1);
  const step = (WIDTH - LEFT - RIGHT) / measured.length;
  const x = (i) => LEFT + step * (i + 0.5);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low));
  const bar = (count) => (HEIGHT - TOP - BOTTOM) * 0.45 * (count / most);

  const lines = [];
  for (let value = low; value < high + tick / 2; value += tick) {
    lines.push(svg('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg('text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, percent(value, 0)));
  }
  const bars = measured.map((round, i) => svg('rect', {
    class: 'labels', x: x(i) - Math.min(step * 0.3, 14), width: Math.min(step * 0.6, 28), y: HEIGHT - BOTTOM - bar(round.labels), height: bar(round.labels),
  }, svg('title', {}, `${round.id}: ${round.labels} labels`)));
  const every = Math.ceil(measured.length / 24);
  const names = measured.map((round, i) => (i % every ? null : svg('text', { x: x(i), y: HEIGHT - 8, 'text-anchor': 'middle' }, round.id)));
  const path = served.map((value, i) => (value === null ? null : `${x(i)},${y(value)}`)).filter(Boolean).join(' ');
  const points = measured.map((round, i) => svg('circle', {
    class: round.promoted ? 'promoted' : 'kept-back', cx: x(i), cy: y(own[i]), r: 4.5,
  }, svg('title', {}, `${round.id}: ${percent(own[i])}, ${round.labels} labels, ${round.pseudo} pseudo labels${round.promoted ? ', served' : ', not served'}`)));
  const text = measured.map((round, i) => `${round.id} ${percent(own[i])}`).join(', ');
  return h('figure', { class: 'chart' },
    svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': `Dice on the hold-out by round: ${text}` },
      lines, bars, svg('polyline', { class: 'served', points: path }), points, names,
      svg('text', { x: WIDTH - RIGHT + 6, y: HEIGHT - BOTTOM - bar(most) + 4 }, String(most)),
      svg('text', { x: WIDTH - RIGHT + 6, y: HEIGHT - BOTTOM + 4 }, '0')),
    h('figcaption', {}, h('span', { class: 'key promoted' }), 'new student, served', h('span', { class: 'key kept-back' }), 'not served',
      h('span', { class: 'key served' }), 'served then', h('span', { class: 'key labels' }), 'labels (right)'));
}
