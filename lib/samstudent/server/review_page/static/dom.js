// DOM elements from plain values. Texts become text nodes, never HTML, so names from a study are not interpreted as markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'class') element.setAttribute('class', value);
    else if (name in element && typeof value !== 'string' && !(element instanceof SVGElement)) element[name] = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
export const button = (text, onclick, attributes) => h('button', { type: 'button', onclick, ...attributes }, text);

export const percent = (value, digits = 1) => (value === null || value === undefined ? '–' : `${(100 * value).toFixed(digits)} %`);

/** Text of a lower bound of Dice, e.g. "Dice ≥ 0.87"; null: there is none. Rounded down, so that it stays true. */
export const boundText = (value) => (value === null || value === undefined ? null : `Dice ≥ ${(Math.floor(100 * value + 1e-9) / 100).toFixed(2)}`);

/** Local date and time of a Unix time in seconds. */
export function dateTime(seconds) {
  if (!seconds) return '–';
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  if (date.toDateString() === new Date().toDateString()) return `today ${time}`;
  return `${date.toLocaleDateString()} ${time}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '';
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Show a short message at the bottom of the page; `action`: { text, run } of a button in it. */
export function notice(text, { error = false, action = null } = {}) {
  const box = h('div', { class: error ? 'notice error' : 'notice' }, h('span', {}, text));
  const close = () => box.remove();
  if (action) box.append(button(action.text, () => { close(); action.run(); }));
  box.append(button('×', close, { class: 'quiet', 'aria-label': 'Close this message' }));
  const area = document.getElementById('notices');
  area.append(box);
  while (area.childElementCount > 3) area.firstElementChild.remove();
  setTimeout(close, error ? 12000 : 6000);
}

/** Confirmation dialog for an action that affects all users; resolves to true if it was confirmed. */
export function confirmAction(title, text, action) {
  return new Promise((resolve) => {
    const finish = (result) => { dialog.close(); dialog.remove(); resolve(result); };
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-title', oncancel: (event) => { event.preventDefault(); finish(false); } },
      h('h2', { id: 'dialog-title' }, title), h('p', {}, text),
      h('div', { class: 'buttons' }, button('Cancel', () => finish(false)), button(action, () => finish(true), { class: 'primary', id: 'confirm' })));
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector('#confirm').focus();
  });
}

export const dialogOpen = () => document.querySelector('dialog[open]') !== null;

/** Whether an event is a command with Ctrl; AltGr, which types [ ] { } on many keyboards, is none. */
export const isCommand = (event) => (event.ctrlKey || event.metaKey) && !event.getModifierState('AltGraph');
