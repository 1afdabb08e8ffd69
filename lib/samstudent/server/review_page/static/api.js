// Requests to the server. The message of an error is the server's.

const BASE = new URL('../../', import.meta.url); // root of the server, also behind a proxy with a path prefix

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body) {
  const options = { method, credentials: 'same-origin', headers: { Accept: 'application/json' } };
  if (method !== 'GET') {
    options.headers['X-Samstudent'] = 'page'; // pages of other sites cannot set this header
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body ?? {});
  }
  let response;
  try {
    response = await fetch(new URL(path, BASE), options);
  } catch {
    throw new ServerError(0, 'No response from the server.');
  }
  if (!response.ok) {
    const detail = await response.json().then((content) => content.detail, () => null);
    if (response.status === 401) document.dispatchEvent(new Event('login-needed'));
    throw new ServerError(response.status, typeof detail === 'string' ? detail : `${response.status} ${response.statusText}`);
  }
  return response;
}

export const get = (path) => request('GET', path).then((response) => response.json());
export const getBlob = (path) => request('GET', path).then((response) => response.blob());
export const post = (path, body) => request('POST', path, body).then((response) => response.json());
export const put = (path, body) => request('PUT', path, body).then((response) => response.json());
export const remove = (path) => request('DELETE', path).then((response) => response.json());

/** Path of a case below `/samstudent/review`; empty values of `query` are left out. */
export const reviewPath = (name, rest = '', query = {}) => {
  const parameters = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const search = new URLSearchParams(parameters).toString();
  return `samstudent/review/${encodeURIComponent(name)}${rest}${search ? `?${search}` : ''}`;
};
