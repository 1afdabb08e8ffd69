// Bounded cache of requests.

/** Cache of promises by key. The least recently used one is dropped; a rejected one is removed, so that its request is repeated. */
export class RequestCache {
  requests = new Map(); // from the least to the most recently used

  constructor(maxSize) {
    this.maxSize = maxSize;
  }

  /** Promise of a key; if there is none, that of the function `request`. */
  get(key, request) {
    let promise = this.requests.get(key);
    if (promise) this.requests.delete(key);
    else {
      promise = request();
      promise.catch(() => { if (this.requests.get(key) === promise) this.requests.delete(key); });
    }
    this.requests.set(key, promise);
    if (this.requests.size > this.maxSize) this.requests.delete(this.requests.keys().next().value);
    return promise;
  }

  delete(key) {
    this.requests.delete(key);
  }

  clear() {
    this.requests.clear();
  }
}
