// Requests to the server. The message of an error is the server's.

const BASE = new URL('../../', import.meta.url); // root of the server, also behind a proxy with a path prefix

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body, headers = {}) {
  const options = { method, credentials: 'same-origin', headers: { Accept: 'application/json', ...headers } };
  if (method !== 'GET') {
    options.headers['X-Samstudent'] = 'page'; // pages of other sites cannot set this header
    if (!(body instanceof FormData)) options.headers['Content-Type'] = 'application/json';
    options.body = body instanceof FormData ? body : JSON.stringify(body ?? {});
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
export const getBytes = (path) => request('GET', path).then((response) => response.arrayBuffer());
export const post = (path, body) => request('POST', path, body).then((response) => response.json());
export const put = (path, body) => request('PUT', path, body).then((response) => response.json());
export const remove = (path) => request('DELETE', path).then((response) => response.json());

/** PUT of a JSON value as a file, which may be longer than other bodies. */
export const putFile = (path, name, value, headers) => {
  const form = new FormData();
  form.append(name, new Blob([JSON.stringify(value)], { type: 'application/json' }), `${name}.json`);
  return request('PUT', path, form, headers).then((response) => response.json());
};

/** Query of an address; empty values are left out. */
export const query = (parameters) => {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const search = new URLSearchParams(given).toString();
  return search ? `?${search}` : '';
};

const casePath = (part) => (name, rest = '', parameters = {}) => `samstudent/${part}/${encodeURIComponent(name)}${rest}${query(parameters)}`;

/** Path of a case below `/samstudent/review`, and below `/samstudent/annotate`. */
export const reviewPath = casePath('review');
export const annotatePath = casePath('annotate');
