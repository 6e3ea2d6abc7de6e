// Calls of the server.

const KEY = "albef-token"; // in sessionStorage: gone with the tab

/** Error of a request; its message is for people. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(sentenceOf(message));
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** A server; `askToken(wasWrong)` resolves to a token when it needs one. */
export class Api {
  #askToken;
  #asking = null;
  model = null; // answer of GET v1/model

  constructor(askToken) {
    this.#askToken = askToken;
  }

  /** Load the description of the server. */
  async load() {
    this.model = await this.get("v1/model");
    return this.model;
  }

  get(path, signal) {
    return this.#json(path, { signal });
  }

  put(path, signal) {
    return this.#json(path, { method: "PUT", signal });
  }

  delete(path, signal) {
    return this.#request(path, { method: "DELETE", signal });
  }

  async blob(path, signal) {
    return (await this.#request(path, { signal })).blob();
  }

  /** Send fields, each a value or a list of values; the answer, with the `ms` that it took. */
  async post(path, fields, signal) {
    const body = new FormData();
    let size = 0;
    for (const [name, value] of Object.entries(fields)) {
      for (const each of [value].flat()) {
        if (each instanceof Blob) body.append(name, each, "image"); // the file's own name stays private
        else body.append(name, each);
        size += each.size ?? 0;
      }
    }
    // If the server refuses a body early, a browser may never show its answer, so check here.
    const most = this.model?.limits.body_bytes ?? Infinity;
    if (size > most) {
      throw new ApiError(413, `the files have ${mib(size)}; the server accepts ${mib(most)} per request`);
    }
    const start = performance.now();
    const answer = await this.#json(path, { method: "POST", body, signal });
    return { ...answer, ms: performance.now() - start };
  }

  async #json(path, options) {
    return (await this.#request(path, options)).json();
  }

  async #request(path, options) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError(0, "cannot reach the server");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (sessionStorage.getItem(KEY) === token) await this.#newToken(token !== null);
      return this.#request(path, options);
    }
    const body = await response.json().catch(() => null);
    const retry = Number.parseInt(response.headers.get("retry-after"), 10);
    throw new ApiError(
      response.status,
      body?.error?.message ?? `the server answered with status ${response.status}`,
      Number.isNaN(retry) ? null : retry,
    );
  }

  /** Ask for a token once, even if several requests wait for it. */
  #newToken(wasWrong) {
    this.#asking ??= this.#askToken(wasWrong)
      .then((token) => sessionStorage.setItem(KEY, token))
      .finally(() => (this.#asking = null));
    return this.#asking;
  }
}

function sentenceOf(text) {
  const shown = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(shown) ? shown : `${shown}.`;
}

const mib = (bytes) => `${Number((bytes / 2 ** 20).toPrecision(2))} MiB`;
