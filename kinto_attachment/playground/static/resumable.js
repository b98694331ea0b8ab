// A small client of resumable uploads (tus 1.0.0): plain JavaScript, to be copied from.

import { Refusal, unlessChanged } from "./attachments.js";

/** What a server or a proxy that passes on complete requests only loses with a connection. */
export const CHUNK_BYTES = 8 * 2 ** 20;

/** In milliseconds: each time the connection breaks without any progress, it waits longer. */
const DELAYS = [500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000];

const STALLED_AFTER = 30_000;

const TUS = { "Tus-Resumable": "1.0.0" };

export class ResumableUpload {
  /**
   * The upload of a file to a record of a `Collection`.
   *
   * `url` is the one of an upload that was begun before. `onBegin` is called with its URL, to be
   * remembered, `onProgress` with a number from 0 to 1, and `onWait` with the milliseconds until
   * the next try.
   */
  constructor(collection, id, file, options = {}) {
    Object.assign(this, { collection, id, file, wait }, options);
  }

  /**
   * Attach the file. After an error or an abort, this can be called again, and continues.
   *
   * An upload that the server does not know any more is begun anew, but only at first: what ends
   * later was refused, or is attached and was changed since.
   */
  async send(signal) {
    let offset;
    let furthest = 0;
    let failures = 0;
    let isKnown = false;
    for (;;) {
      try {
        offset ??= this.url ? (await this.inspect(signal)).offset : await this.begin(signal);
        isKnown = true;
        if (offset > furthest) failures = 0;
        furthest = Math.max(furthest, offset);
        this.onProgress?.(this.file.size ? offset / this.file.size : 1);
        if (offset === this.file.size) return;
        offset = await this.append(offset, signal);
      } catch (error) {
        if (!isKnown && this.url && isGone(error)) {
          this.url = undefined;
          continue;
        }
        await this.checkFile(error);
        if (!isTemporary(error)) throw error;
        if (failures === DELAYS.length) throw new GivenUp(error);
        const delay = DELAYS[failures];
        // While the server is storing the file, it can be reached.
        if (error.status !== 423) failures += 1;
        this.onWait?.(delay, error);
        await this.wait(delay, signal);
        offset = undefined;
      }
    }
  }

  /** Give up: the server forgets the upload, and what has arrived. */
  async terminate() {
    if (this.url) await this.collection.request(this.url, { method: "DELETE", headers: TUS });
  }

  async begin(signal) {
    const { headers } = await this.collection.send("POST", this.uploads, {
      headers: {
        ...TUS,
        ...unlessChanged(this.lastModified),
        "Upload-Length": String(this.file.size),
        "Upload-Metadata": metadata({ filename: this.file.name, filetype: this.file.type }),
      },
      signal,
    });
    this.url = new URL(headers.get("Location"), this.uploads).href;
    this.onBegin?.(this.url);
    return 0;
  }

  /** Return how many bytes have arrived, the `offset`, of how many, the `length`. */
  async inspect(signal) {
    const request = { method: "HEAD", headers: TUS, signal };
    const { headers } = await this.collection.request(this.url, request);
    return { offset: offsetOf(headers), length: Number(headers.get("Upload-Length")) };
  }

  async append(offset, signal) {
    const chunk = this.file.slice(offset, offset + CHUNK_BYTES);
    const { headers } = await this.collection.send("PATCH", this.url, {
      headers: {
        ...TUS,
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": String(offset),
      },
      body: chunk,
      stalledAfter: STALLED_AFTER,
      // With the last byte, the server stores the file.
      isLong: offset + chunk.size === this.file.size,
      onProgress: (sent) => this.onProgress?.((offset + sent * chunk.size) / this.file.size),
      signal,
    });
    return offsetOf(headers);
  }

  /** A browser reports a file that is not what it was any more like a broken connection. */
  async checkFile(error) {
    if (error.status !== 0) return;
    try {
      await this.file.slice(0, 1).arrayBuffer();
    } catch {
      throw new Refusal(400, { message: "The file was changed or removed: choose it again." });
    }
  }

  get uploads() {
    return `${this.collection.recordUrl(this.id)}/attachment/uploads`;
  }
}

export class GivenUp extends Refusal {
  /** The server could not be reached for about a minute. The upload can be continued. */
  constructor(error) {
    super(error.status, {});
    this.message = "The server cannot be reached. What has arrived there stays for now: resume later.";
  }
}

/** What is known of uploads that were not finished, in a `Storage` as `localStorage`. */
export class UploadMemory {
  constructor(getStorage, prefix = "upload ") {
    Object.assign(this, { getStorage, prefix });
  }

  /** Return the key of a file that goes to a place. */
  key(place, { name, size, lastModified }) {
    return this.prefix + JSON.stringify([place, name, size, lastModified]);
  }

  /** Return the record's `id` and the `url` of an upload, or nothing. */
  get(key) {
    return this.attempt((storage) => JSON.parse(storage.getItem(key))) ?? undefined;
  }

  /** Return all of them, as `{ key, place, name, id, url }`. */
  list() {
    const keys = this.attempt((storage) => Object.keys(storage)) ?? [];
    return keys
      .filter((key) => key.startsWith(this.prefix))
      .map((key) => {
        const [place, name] = this.attempt(() => JSON.parse(key.slice(this.prefix.length))) ?? [];
        return { key, place, name, ...this.get(key) };
      });
  }

  set(key, { id, url }) {
    this.attempt((storage) => storage.setItem(key, JSON.stringify({ id, url })));
  }

  forget(key) {
    this.attempt((storage) => storage.removeItem(key));
  }

  /** Storages can be full, forbidden, or changed by others: then nothing is known. */
  attempt(action) {
    try {
      return action(this.getStorage());
    } catch {
      return undefined;
    }
  }
}

/** Return the value of the header Upload-Metadata. */
export function metadata(fields) {
  const encode = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
  return Object.entries(fields)
    .map(([name, text]) => `${name} ${encode(text)}`.trim())
    .join(",");
}

function offsetOf(headers) {
  const offset = headers.get("Upload-Offset");
  if (!/^\d+$/.test(offset ?? "")) {
    throw new Refusal(200, { message: "The answer is not one of Kinto's." });
  }
  return Number(offset);
}

/** Return whether the server does not know an upload (any more). */
export function isGone({ status }) {
  return status === 404 || status === 410;
}

/** Return whether another try can succeed: no connection, another request, or a busy server. */
function isTemporary({ status }) {
  return [0, 408, 409, 423].includes(status) || status >= 500;
}

/** Return after some milliseconds, or throw if the signal aborts. */
function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
