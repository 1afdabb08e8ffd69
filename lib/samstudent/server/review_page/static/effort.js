// Effort of the annotators on the overview: minutes a case over time, by person and by start.

import { dateTime, h, svg } from './dom.js';

const WIDTH = 640, HEIGHT = 150, LEFT = 34, BOTTOM = 20, TOP = 8;
/** Starts, with their mark in the chart. */
const STARTS = { empty: ['empty', 'circle'], student: ['student', 'square'], sam: ['SAM', 'triangle'], label: ['earlier label', 'cross'], mixed: ['mixed', 'ring'] };

const minutesText = (minutes) => `${minutes < 10 ? minutes.toFixed(1) : Math.round(minutes)} min`;

/** Content of the card; data: `effort` of the overview, or null. */
export function effortCard(data) {
  const title = h('h2', {}, 'Minutes a case');
  if (!data) return [];
  const facts = [];
  if (data.from_model) facts.push(`Structures that began as masks of a model: ${data.from_model}; of these submitted untouched: ${data.untouched}.`);
  if (data.reviewed) facts.push(`${data.reviewed} structures were accepted in Review.`);
  const note = facts.length ? h('p', { class: 'small' }, facts.join(' ')) : null;
  const table = (name, rows, text) => h('table', {}, h('thead', {}, h('tr', {}, [name, 'cases', 'median'].map((column, i) => h('th', { scope: 'col', class: i ? 'number' : null }, column)))),
    h('tbody', {}, rows.map((row) => h('tr', {}, h('th', { scope: 'row' }, text(row.name)), h('td', { class: 'number' }, String(row.cases)), h('td', { class: 'number' }, minutesText(row.minutes))))));
  const reviewers = data.by_reviewer.length ? table('reviewer in 3D Slicer', data.by_reviewer, (name) => name) : null;
  if (!data.cases) return [title, reviewers, note];
  return [title, h('div', { class: 'effort-parts' }, chart(data.points), table('start', data.by_start, (name) => STARTS[name]?.[0] ?? name), table('person', data.by_user, (name) => name), reviewers), note];
}

/** Minutes of the cases in the order of saving. */
function chart(points) {
  const most = Math.max(1, ...points.map((point) => point.minutes)), step = [0.5, 1, 2, 5, 10, 20, 50].find((value) => most / value <= 4) ?? 100;
  const top = Math.ceil(most / step) * step, x = (i) => LEFT + ((i + 0.5) / points.length) * (WIDTH - LEFT - 8), y = (minutes) => TOP + (1 - minutes / top) * (HEIGHT - TOP - BOTTOM);
  const lines = Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step).map((minutes) => [
    svg('line', { class: 'grid', x1: LEFT, x2: WIDTH, y1: y(minutes), y2: y(minutes) }), svg('text', { x: LEFT - 6, y: y(minutes) + 4, 'text-anchor': 'end' }, String(minutes))]);
  const marks = points.map((point, i) => {
    const mark = markOf(point.start, x(i), y(point.minutes));
    mark.append(svg('title', {}, `${point.case}: ${minutesText(point.minutes)}, ${STARTS[point.start]?.[0] ?? point.start}, ${point.user}, ${dateTime(point.time)}`));
    return mark;
  });
  const used = Object.entries(STARTS).filter(([start]) => points.some((point) => point.start === start));
  return h('figure', { class: 'chart' }, svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': 'Minutes of each case, in the order of saving' }, lines, marks,
    svg('text', { x: WIDTH, y: HEIGHT - 4, 'text-anchor': 'end' }, 'cases, in the order of saving')),
  h('figcaption', {}, used.map(([start, [text]]) => [svg('svg', { width: '12', height: '12', viewBox: '0 0 12 12', 'aria-hidden': 'true' }, markOf(start, 6, 6)), text])));
}

function markOf(start, x, y) {
  const shapes = {
    circle: () => svg('circle', { cx: x, cy: y, r: 4 }), square: () => svg('rect', { x: x - 4, y: y - 4, width: 8, height: 8 }),
    triangle: () => svg('path', { d: `M${x} ${y - 5}l5 9h-10z` }), cross: () => svg('path', { class: 'open', d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` }), ring: () => svg('circle', { class: 'open', cx: x, cy: y, r: 4 }),
  };
  const mark = shapes[STARTS[start]?.[1] ?? 'ring']();
  mark.classList.add('effort-mark', `from-${start}`);
  return mark;
}
