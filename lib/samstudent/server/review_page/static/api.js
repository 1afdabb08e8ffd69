// Calls of the server. Errors carry the server's own sentence.

const BASE = new URL('../../', import.meta.url); // the server's root, also behind a proxy that puts a folder before it

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, body) {
  const options = { method, credentials: 'same-origin', headers: { Accept: 'application/json' } };
  if (method !== 'GET') {
    options.headers['X-Samstudent'] = 'page'; // pages of other sites cannot set it
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body ?? {});
  }
  let response;
  try {
    response = await fetch(new URL(path, BASE), options);
  } catch {
    throw new ServerError(0, 'The server does not answer.');
  }
  if (!response.ok) {
    const detail = await response.json().then((content) => content.detail, () => null);
    if (response.status === 401) document.dispatchEvent(new Event('login-needed'));
    throw new ServerError(response.status, typeof detail === 'string' ? detail : `${response.status} ${response.statusText}`);
  }
  return response;
}

export const get = (path) => call('GET', path).then((response) => response.json());
export const getBlob = (path) => call('GET', path).then((response) => response.blob());
export const post = (path, body) => call('POST', path, body).then((response) => response.json());
export const put = (path, body) => call('PUT', path, body).then((response) => response.json());
export const remove = (path) => call('DELETE', path).then((response) => response.json());

export const reviewPath = (name, rest = '', query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const search = new URLSearchParams(given).toString();
  return `samstudent/review/${encodeURIComponent(name)}${rest}${search ? `?${search}` : ''}`;
};
