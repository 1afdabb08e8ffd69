// Entry point of the page: current view, user, periodic requests for the overview, and keyboard.

import { Annotate } from './annotate/annotate.js';
import { get, post } from './api.js';
import { button, dialogOpen, h, isCommand, notice } from './dom.js';
import { Overview } from './overview.js';
import { Review } from './review.js';

// Milliseconds between requests for the overview, with and without a running job.
const POLL_BUSY = 3000, POLL_IDLE = 15000;

const state = { me: null, overview: null, view: null, timer: null };
const main = document.getElementById('main');

async function refresh() {
  clearTimeout(state.timer);
  try {
    if (!document.hidden) {
      state.overview = await get('samstudent/overview');
      showHeader();
      state.view?.update?.(state.overview);
    }
  } catch (error) {
    if (error.status === 401) return;
    document.getElementById('job').hidden = false;
    document.getElementById('job').textContent = error.message;
  }
  clearTimeout(state.timer);
  state.timer = setTimeout(refresh, state.overview?.jobs.length ? POLL_BUSY : POLL_IDLE);
}

function showHeader() {
  const { study, counts, jobs } = state.overview;
  document.getElementById('study').textContent = `samstudent · ${study.name}`;
  document.title = `samstudent · ${study.name}`;
  const waiting = document.getElementById('waiting');
  waiting.hidden = counts.waiting === 0;
  waiting.textContent = counts.waiting;
  waiting.setAttribute('aria-label', `${counts.waiting} waiting for review`);
  const job = document.getElementById('job');
  job.hidden = jobs.length === 0;
  const percent = jobs[0]?.steps.find((step) => step.step === jobs[0].step)?.percent ?? null;
  job.textContent = jobs.length ? `${jobs[0].step}${percent === null ? '' : ` ${Math.round(percent)} %`}` : '';
}

function showUser() {
  const { user, name, login, may } = state.me;
  const role = may.administer ? 'administrator' : may.review ? 'reviewer' : may.annotate ? 'annotator' : 'user';
  document.getElementById('user').textContent = login ? `${name || user} (${role})` : `${user} (no login)`;
  document.getElementById('logout').hidden = !login;
}

/** Login page; it returns to this page, also behind a proxy with a path prefix. */
const loginAddress = () => `samstudent/login?next=${encodeURIComponent(location.pathname)}`;

async function logout() {
  try {
    await post('samstudent/logout');
    location.assign(loginAddress());
  } catch (error) {
    if (error.status !== 401) notice(error.message, { error: true });
  }
}

const VIEWS = { overview: Overview, annotate: Annotate, review: Review };

/** Show the view of the address: `#<view>/<case>`; `#edit/<case>` is Annotate for a case of the review queue. */
function route() {
  const [viewName, ...rest] = location.hash.slice(1).split('/');
  const editing = viewName === 'edit', requested = editing ? 'annotate' : viewName in VIEWS ? viewName : 'overview';
  for (const name of Object.keys(VIEWS)) {
    const link = document.getElementById(`to-${name}`);
    if (name === (editing ? 'review' : requested)) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const caseName = rest.length ? decodeURIComponent(rest.join('/')) : null;
  if (state.view?.name !== requested) {
    state.view?.close?.();
    main.replaceChildren();
    main.className = requested;
    state.view = new VIEWS[requested](main, state.me, state.overview, refresh);
  }
  document.getElementById('help-button').hidden = !state.view.shortcuts;
  state.view.open?.(caseName, editing);
}

function showHelp() {
  if (dialogOpen() || !state.view?.shortcuts) return;
  const dialog = h('dialog', { class: 'help', 'aria-labelledby': 'help-title', onclose: () => dialog.remove() },
    h('h2', { id: 'help-title' }, 'Keyboard'),
    h('dl', {}, [...state.view.shortcuts, ['?', 'this list']].map(([key, description]) => [h('dt', {}, key.split('  ').map((name) => h('kbd', {}, name))), h('dd', {}, description)])),
    h('div', { class: 'buttons' }, button('Close', () => dialog.close(), { class: 'primary' })));
  document.body.append(dialog);
  dialog.showModal();
}

document.getElementById('logout').addEventListener('click', logout);
document.getElementById('help-button').addEventListener('click', showHelp);
document.addEventListener('keydown', (event) => {
  const isAlt = event.altKey && !event.getModifierState('AltGraph') && event.key !== 'Enter';
  if (isAlt || dialogOpen() || (isCommand(event) && state.view?.name !== 'annotate')) return;
  if (event.key === '?') showHelp();
  else state.view?.key?.(event);
});
document.addEventListener('keyup', (event) => state.view?.keyUp?.(event));
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
document.addEventListener('login-needed', () => {
  clearTimeout(state.timer);
  main.replaceChildren(h('section', { class: 'card' }, h('h2', {}, 'Login required'),
    h('p', {}, 'This browser is not logged in, or the login has expired.'),
    h('p', {}, h('a', { href: loginAddress() }, 'Log in'))));
});

async function start() {
  try {
    [state.me, state.overview] = await Promise.all([get('samstudent/me'), get('samstudent/overview')]);
  } catch (error) {
    if (error.status !== 401) notice(error.message, { error: true });
    return;
  }
  showHeader();
  showUser();
  window.addEventListener('hashchange', route);
  route();
  refresh();
}

start();
