// The playground's client of resumable uploads, without a browser: node --test.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Refusal } from "../../kinto_attachment/playground/static/attachments.js";
import * as client from "../../kinto_attachment/playground/static/resumable.js";

const { CHUNK_BYTES, GivenUp, ResumableUpload, UploadMemory, metadata } = client;
const MIB = 2 ** 20;

/** A server in place of `Collection`. It has `faults`: statuses, 0 without a connection. */
class FakeCollection {
  constructor(faults = [], offset = 0) {
    Object.assign(this, { faults, offset, asked: [] });
  }

  recordUrl(id) {
    return `http://server.test/v1/records/${id}`;
  }

  async send(method, url, { headers, body, onProgress }) {
    this.asked.push(method);
    this.fail();
    if (method === "POST") {
      this.created = headers;
      this.offset = 0;
      return { headers: new Headers({ Location: `${url}/1` }) };
    }
    if (Number(headers["Upload-Offset"]) !== this.offset) throw new Refusal(409);
    onProgress(0.5);
    this.offset += body.size;
    return { headers: new Headers({ "Upload-Offset": this.offset }) };
  }

  async request(url, { method }) {
    this.asked.push(method);
    this.fail();
    return { headers: new Headers({ "Upload-Offset": this.offset }) };
  }

  fail() {
    const status = this.faults.shift();
    if (status !== undefined) throw new Refusal(status, { message: "a fault" });
  }
}

function start(collection, options = {}) {
  const delays = [];
  const parts = [];
  const wait = async (delay) => delays.push(delay);
  const file = options.file ?? new File([new Uint8Array(20 * MIB)], "film.mp4");
  const upload = new ResumableUpload(collection, "first", file, {
    wait,
    onProgress: (part) => parts.push(part),
    ...options,
  });
  return { upload, delays, parts };
}

test("a file is sent in chunks", async () => {
  const collection = new FakeCollection();
  const { upload, delays, parts } = start(collection, { lastModified: 5 });
  await upload.send();
  assert.deepEqual(collection.asked, ["POST", "PATCH", "PATCH", "PATCH"]);
  assert.equal(collection.offset, 20 * MIB);
  assert.equal(collection.created["Upload-Length"], String(20 * MIB));
  assert.equal(collection.created["If-Match"], '"5"');
  assert.deepEqual(delays, []);
  assert.deepEqual(parts, [0, 0.2, 0.4, 0.6, 0.8, 0.9, 1]);
});

test("an upload that was begun before continues where it was", async () => {
  const collection = new FakeCollection([], CHUNK_BYTES);
  const { upload, parts } = start(collection, { url: "http://server.test/1" });
  await upload.send();
  assert.deepEqual(collection.asked, ["HEAD", "PATCH", "PATCH"]);
  assert.equal(parts[0], 0.4);
});

for (const status of [0, 408, 409, 423, 500, 503]) {
  test(`after ${status}, it asks for the offset`, async () => {
    const collection = new FakeCollection([undefined, undefined, status]);
    const { upload, delays } = start(collection);
    await upload.send();
    assert.deepEqual(collection.asked, ["POST", "PATCH", "PATCH", "HEAD", "PATCH", "PATCH"]);
    assert.deepEqual(delays, [500]);
  });
}

for (const status of [400, 401, 403, 404, 410, 412, 413, 415, 429]) {
  test(`after ${status}, it ends`, async () => {
    const { upload, delays } = start(new FakeCollection([undefined, status]));
    await assert.rejects(upload.send(), { status });
    assert.deepEqual(delays, []);
  });
}

test("the beginning is repeated", async () => {
  const collection = new FakeCollection([0]);
  await start(collection).upload.send();
  assert.deepEqual(collection.asked, ["POST", "POST", "PATCH", "PATCH", "PATCH"]);
});

test("without a connection, delays grow until it gives up, and it can be called again", async () => {
  const collection = new FakeCollection([undefined, ...Array(8).fill(0)]);
  const { upload, delays } = start(collection);
  await assert.rejects(upload.send(), GivenUp);
  assert.deepEqual(delays, [500, 1000, 2000, 4000, 8000, 15000, 30000]);
  await upload.send();
  assert.equal(collection.offset, 20 * MIB);
  assert.equal(collection.asked.filter((method) => method === "POST").length, 1);
});

test("progress makes the delays short again", async () => {
  const faults = [undefined, 0, 0, undefined, undefined, 0];
  const { upload, delays } = start(new FakeCollection(faults));
  await upload.send();
  assert.deepEqual(delays, [500, 1000, 500]);
});

test("it waits as long as it takes the server to store the file", async () => {
  const { upload, delays } = start(new FakeCollection([undefined, ...Array(20).fill(423)]));
  await upload.send();
  assert.equal(delays.length, 20);
});

for (const status of [404, 410]) {
  test(`an earlier upload that is ${status} is begun anew`, async () => {
    const collection = new FakeCollection([status]);
    const begun = [];
    const onBegin = (url) => begun.push(url);
    await start(collection, { url: "http://server.test/1", onBegin }).upload.send();
    assert.deepEqual(collection.asked, ["HEAD", "POST", "PATCH", "PATCH", "PATCH"]);
    assert.deepEqual(begun, ["http://server.test/v1/records/first/attachment/uploads/1"]);
  });
}

test("an upload whose last answer was lost is complete", async () => {
  const collection = new FakeCollection([], 20 * MIB);
  const { upload, parts } = start(collection, { url: "http://server.test/1" });
  await upload.send();
  assert.deepEqual(collection.asked, ["HEAD"]);
  assert.deepEqual(parts, [1]);
});

test("an abort ends the waiting", async () => {
  const controller = new AbortController();
  const collection = new FakeCollection([0]);
  const file = new File(["x"], "a");
  const onWait = () => controller.abort();
  const upload = new ResumableUpload(collection, "first", file, { onWait });
  await assert.rejects(upload.send(controller.signal), { name: "AbortError" });
  assert.deepEqual(collection.asked, ["POST"]);
});

test("an answer of something else is an error", async () => {
  const collection = new FakeCollection();
  collection.request = async () => ({ headers: new Headers() });
  const { upload } = start(collection, { url: "http://server.test/1" });
  await assert.rejects(upload.send(), /not one of Kinto's/);
});

test("metadata is encoded as UTF-8, and empty values have no space", () => {
  assert.equal(metadata({ filename: "é.txt", filetype: "" }), "filename w6kudHh0,filetype");
});

/** A `Storage`, whose keys are those of the object. */
class FakeStorage {
  getItem(key) {
    return this[key] ?? null;
  }

  setItem(key, value) {
    this[key] = value;
  }

  removeItem(key) {
    delete this[key];
  }
}

test("uploads are remembered by place, name, size and date", () => {
  const storage = new FakeStorage();
  const memory = new UploadMemory(() => storage);
  const file = { name: "a", size: 1, lastModified: 2 };
  memory.set(memory.key("here", file), { id: "first", url: "u" });
  assert.deepEqual(memory.get(memory.key("here", file)), { id: "first", url: "u" });
  const known = { key: memory.key("here", file), place: "here", name: "a", id: "first", url: "u" };
  assert.deepEqual(memory.list(), [known]);
  const others = [
    ["there", file],
    ["here", { ...file, name: "b" }],
    ["here", { ...file, size: 2 }],
    ["here", { ...file, lastModified: 3 }],
  ];
  for (const other of others) assert.equal(memory.get(memory.key(...other)), undefined);
  memory.forget(memory.key("here", file));
  assert.equal(memory.get(memory.key("here", file)), undefined);
});

test("a storage that is forbidden or damaged remembers nothing", () => {
  const forbidden = new UploadMemory(() => {
    throw new DOMException("", "SecurityError");
  });
  forbidden.set("key", { id: "first", url: "u" });
  assert.equal(forbidden.get("key"), undefined);
  forbidden.forget("key");
  assert.deepEqual(forbidden.list(), []);
  const storage = new FakeStorage();
  storage.setItem("key", "{");
  assert.equal(new UploadMemory(() => storage).get("key"), undefined);
});
