// A small client of Kinto's records and their attachments: plain JavaScript, to be copied from.

export class Refusal extends Error {
  /** An error of the server or the browser. `status` is 0 without a response. */
  constructor(status, body) {
    super(inWords(status, body));
    this.status = status;
    this.errno = body?.errno;
  }
}

export class Collection {
  /** A collection of the server whose API begins at `root`, as seen by a user of Basic auth. */
  constructor(root, user, password, bucket, collection) {
    const ids = [bucket, collection].map(encodeURIComponent);
    this.root = root;
    this.user = user;
    this.url = `${root}/buckets/${ids[0]}/collections/${ids[1]}/records`;
    const credentials = new TextEncoder().encode(`${user}:${password}`);
    this.headers = { Authorization: `Basic ${btoa(String.fromCharCode(...credentials))}` };
  }

  /** Return a page of records, the last changed first, and the URL of the next page, if any. */
  async list(url = `${this.url}?_sort=-last_modified&_limit=24`) {
    const response = await this.request(url);
    const { data } = await jsonOf(response);
    return { records: data, next: response.headers.get("Next-Page") };
  }

  /** Return a record. */
  async get(id) {
    return (await jsonOf(await this.request(this.recordUrl(id)))).data;
  }

  /** Attach a file to a record, which is created if need be, and return the attachment. */
  async attach(id, file, { lastModified, onProgress, signal } = {}) {
    const form = new FormData();
    form.append("attachment", file, file.name);
    const headers = unlessChanged(lastModified);
    const url = `${this.recordUrl(id)}/attachment`;
    return (await this.send("POST", url, { headers, body: form, onProgress, signal })).body;
  }

  /** Return whether the server has resumable uploads (see `resumable.js`). */
  async isResumable() {
    const { capabilities } = await jsonOf(await this.request(`${this.root}/`));
    return Boolean(capabilities?.attachments?.resumable?.includes("tus-1.0.0"));
  }

  /** Return whether the file of a record is only for those who may read the record. */
  isPrivate({ id, attachment }) {
    const collection = new URL(this.url).pathname.split("/").slice(-3).join("/");
    try {
      const { pathname } = new URL(attachment.location, this.url);
      return pathname.endsWith(`/${collection}/${id}/attachment`);
    } catch {
      return false;
    }
  }

  /** Return a URL of a record's file that needs no credentials. It ends: then ask for another. */
  async link(id) {
    const response = await this.request(`${this.recordUrl(id)}/attachment/link`);
    return (await jsonOf(response)).location;
  }

  /** Detach the file of a record, and delete it. */
  async detach(id, lastModified) {
    await this.request(`${this.recordUrl(id)}/attachment`, {
      method: "DELETE",
      headers: unlessChanged(lastModified),
    });
  }

  /** Delete a record, and its file with it. */
  async remove(id, lastModified) {
    await this.request(this.recordUrl(id), {
      method: "DELETE",
      headers: unlessChanged(lastModified),
    });
  }

  recordUrl(id) {
    return `${this.url}/${encodeURIComponent(id)}`;
  }

  /**
   * Send a body that may be large, and return the `headers` and the `body` of the response.
   *
   * `fetch` works as well, but does not report progress. An XMLHttpRequest does: `onProgress` is
   * called with a number from 0 to 1, and `signal` aborts. A connection without any progress for
   * `stalledAfter` milliseconds counts as broken; with `isLong`, until the body is sent.
   */
  send(method, url, { headers, body, onProgress, signal, stalledAfter, isLong } = {}) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      let timer;
      const watch = () => {
        clearTimeout(timer);
        if (stalledAfter) timer = setTimeout(() => xhr.abort(), stalledAfter);
      };
      const xhr = new XMLHttpRequest();
      xhr.open(method, url);
      for (const [name, value] of Object.entries({ ...this.headers, ...headers })) {
        xhr.setRequestHeader(name, value);
      }
      xhr.responseType = "json";
      xhr.upload.onprogress = (event) => {
        watch();
        onProgress?.(event.loaded / event.total);
      };
      xhr.upload.onload = () => isLong && clearTimeout(timer);
      xhr.onloadend = () => clearTimeout(timer);
      signal?.addEventListener("abort", () => xhr.abort());
      xhr.onload = () =>
        xhr.status < 300
          ? resolve({ headers: headersOf(xhr), body: xhr.response })
          : reject(new Refusal(xhr.status, xhr.response));
      xhr.onerror = () => reject(new Refusal(0));
      xhr.onabort = () => reject(signal?.aborted ? signal.reason : new Refusal(0));
      xhr.send(body);
      watch();
    });
  }

  async request(url, { method = "GET", headers = {}, signal } = {}) {
    let response;
    try {
      response = await fetch(url, {
        method,
        headers: { ...this.headers, ...headers },
        // The browser would ask for a password.
        credentials: "omit",
        cache: "no-store",
        signal,
      });
    } catch {
      signal?.throwIfAborted();
      throw new Refusal(0);
    }
    if (!response.ok) {
      throw new Refusal(response.status, await response.json().catch(() => null));
    }
    return response;
  }
}

async function jsonOf(response) {
  try {
    return await response.json();
  } catch {
    throw new Refusal(response.status, { message: "The answer is not one of Kinto's." });
  }
}

function headersOf(xhr) {
  const lines = xhr.getAllResponseHeaders().trim().split("\r\n");
  return new Headers(lines.map((line) => line.split(/: (.*)/s).slice(0, 2)));
}

/** Return the header that makes the server refuse a change (412) if another came first. */
export function unlessChanged(lastModified) {
  return lastModified ? { "If-Match": `"${lastModified}"` } : {};
}

function inWords(status, body) {
  switch (status) {
    case 0:
      return (
        "The connection broke before there was an answer. Either the server is not running, " +
        "or it stopped reading a file that it refuses, as one that is too large."
      );
    case 401:
      return "The user name or the password is wrong.";
    case 403:
      return "This user may not do that here.";
    case 404:
      return "There is no such bucket, collection or record (any more).";
    case 412:
      return "The record was changed meanwhile. Load the list again, and repeat what you wanted.";
    default:
      return body?.message?.replace(/^body: /, "") || `The server answered with the status ${status}.`;
  }
}
