// Dialogs of the tab Annotate: flag with a reason, and history of the label.

import { button, dateTime, duration, h } from '../dom.js';

const REASONS = ['blurred', 'wrong body part', 'wrong projection', 'implant or cast hides the structures', 'two images in one', 'not readable'];

function dialogOf(title, ...content) {
  const dialog = h('dialog', { 'aria-labelledby': 'dialog-title', onclose: () => dialog.remove() }, h('h2', { id: 'dialog-title' }, title), content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask for the reason of a flag; run(reason) is called with it. */
export function askReason(name, run) {
  const input = h('input', { id: 'reason', list: 'reasons', maxlength: '500', required: true, autocomplete: 'off' });
  const send = (event) => {
    event.preventDefault();
    dialog.close();
    run(input.value);
  };
  const dialog = dialogOf(`Flag ${name} as unusable?`,
    h('p', {}, 'It is not offered any more and trains no model, until the flag is taken back.'),
    h('form', { onsubmit: send }, h('label', {}, 'Reason ', input), h('datalist', { id: 'reasons' }, REASONS.map((reason) => h('option', { value: reason }))),
      h('div', { class: 'buttons' }, button('Cancel', () => dialog.close()), h('button', { class: 'primary', id: 'confirm' }, 'Flag'))));
  input.focus();
}

/** Word for a version of the label. */
function kindOf({ id, refused }) {
  if (id === null) return 'now';
  if (id.startsWith('version_')) return `Slicer’s ${id}`;
  return refused ? 'refused' : 'earlier';
}

/** Versions of the label, newest first; compare(version) and restore(version) are called with one of them. */
export function showVersions(name, versions, compare, restore) {
  const act = (run, version) => () => {
    dialog.close();
    run(version);
  };
  const row = (version) => h('tr', {}, h('td', {}, kindOf(version)), h('td', {}, version.user ?? '–'), h('td', { class: 'nowrap' }, dateTime(version.time)),
    h('td', {}, [version.start, version.seconds && duration(version.seconds)].filter(Boolean).join(', ')),
    h('td', { class: 'nowrap' }, button('Compare', act(compare, version), { 'data-compare': version.id ?? 'now' }), ' ', button('Take', act(restore, version), { 'data-restore': version.id ?? 'now' })));
  const table = versions.length ? h('table', {}, h('thead', {}, h('tr', {}, ['', 'by', 'time', 'start, minutes', ''].map((text) => h('th', {}, text)))), h('tbody', {}, versions.map(row)))
    : h('p', { class: 'empty' }, 'No label was saved yet.');
  const dialog = dialogOf(`Labels of ${name}`, h('p', {}, 'Compare shows a version as dashed lines. Take copies it into the drawing; it becomes the label when you submit.'),
    table, h('div', { class: 'buttons' }, button('Close', () => dialog.close(), { class: 'primary' })));
  dialog.classList.add('history');
}
