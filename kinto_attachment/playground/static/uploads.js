// The uploads under way. Those of large files can be paused, and continue after the connection
// broke, or when the same file is chosen again after the page was closed.

import { find, logError, say } from "./page.js";
import { GivenUp, ResumableUpload, UploadMemory, isGone } from "./resumable.js";

const RESUMABLE_ABOVE = 16 * 2 ** 20;

/** The statuses with which the server gives up an upload. */
const FINAL = [400, 403, 404, 410, 412, 413];

const memory = new UploadMemory(() => localStorage);
const keysInUse = new Set();

export class Upload {
  /**
   * Attach a file, and show the progress, until it is attached or cancelled.
   *
   * With an `id`, the file goes to this record, else to a new one. `queue` calls the function that
   * it gets when it is the turn of this upload.
   */
  constructor(collection, file, { id, lastModified, onAttached, queue = (run) => run() }) {
    Object.assign(this, { collection, file, lastModified, onAttached, queue });
    this.key = memory.key([collection.user, id ? collection.recordUrl(id) : collection.url], file);
    // The same file twice: the second one is a record of its own.
    if (keysInUse.has(this.key)) this.key = undefined;
    else keysInUse.add(this.key);
    const known = this.key && memory.get(this.key);
    if (known) interruptedItem(this.key)?.remove();
    this.id = id ?? known?.id ?? newId();
    this.resumable = new ResumableUpload(collection, this.id, file, {
      url: known?.url,
      lastModified,
      onBegin: (url) => this.key && memory.set(this.key, { id: this.id, url }),
      onProgress: (part) => this.showProgress(part),
      onWait: (delay, error) => this.showDelay(delay, error),
    });
    this.show();
    this.start();
  }

  show() {
    this.item = makeItem(this.file.name);
    this.progress = find("progress", this.item);
    this.state = find(".state", this.item);
    this.pauseButton = find(".pause", this.item);
    this.cancelButton = find(".cancel", this.item);
    this.cancelButton.addEventListener("click", () => this.cancel());
    this.pauseButton.addEventListener("click", () => {
      if (this.controller.signal.aborted) this.start();
      else this.pause();
    });
    find("#uploads").append(this.item);
  }

  start() {
    this.controller = new AbortController();
    this.item.classList.remove("failed");
    this.state.removeAttribute("role");
    this.state.textContent = "waiting";
    this.offer("Pause");
    const { signal } = this.controller;
    this.queue(() => this.run(signal));
  }

  /** Never throws: others are in the queue. */
  async run(signal) {
    if (signal.aborted) return;
    this.showProgress(this.progress.value);
    try {
      await this.send(signal);
      await this.onAttached(this.id);
      this.end();
      say(`${this.file.name} is attached.`);
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    }
  }

  async send(signal) {
    const { collection, id, file, lastModified } = this;
    if (file.size > RESUMABLE_ABOVE && (await this.isResumable())) {
      try {
        await this.sendResumably(signal);
        return;
      } catch (error) {
        // Not in this collection. (Or it is not there, and this is refused as well.)
        if (error.status !== 404 || this.resumable.url) throw error;
      }
    }
    this.pauseButton.hidden = true;
    const onProgress = (part) => this.showProgress(part);
    await collection.attach(id, file, { lastModified, onProgress, signal });
  }

  async isResumable() {
    this.collection.resumable ??= await this.collection.isResumable();
    return this.collection.resumable;
  }

  async sendResumably(signal) {
    this.pauseButton.hidden = false;
    try {
      await this.resumable.send(signal);
    } catch (error) {
      if (FINAL.includes(error.status)) this.forget();
      throw error;
    }
    this.forget();
  }

  pause() {
    this.controller.abort();
    this.state.textContent = `paused at ${inPercent(this.progress.value)}`;
    this.offer("Resume");
  }

  async cancel() {
    this.controller.abort();
    this.end();
    find("#files").focus();
    if (!this.hasFailed) await terminate(this.resumable);
  }

  fail(error) {
    this.controller.abort();
    logError(error);
    this.item.classList.add("failed");
    this.state.setAttribute("role", "alert");
    this.state.textContent = error.message;
    if (error instanceof GivenUp) {
      this.offer("Resume");
      return;
    }
    this.hasFailed = true;
    this.progress.remove();
    this.pauseButton.remove();
    this.cancelButton.textContent = "Dismiss";
    const label = `Dismiss the message on ${this.file.name}`;
    this.cancelButton.setAttribute("aria-label", label);
  }

  end() {
    this.forget();
    this.item.remove();
  }

  forget() {
    if (!this.key) return;
    memory.forget(this.key);
    keysInUse.delete(this.key);
    this.key = undefined;
  }

  /** Let the button pause or resume the upload. */
  offer(verb) {
    this.pauseButton.textContent = verb;
    this.pauseButton.setAttribute("aria-label", `${verb} the upload of ${this.file.name}`);
  }

  showProgress(part) {
    this.progress.value = part;
    this.state.textContent = part < 1 ? inPercent(part) : "being stored";
  }

  showDelay(milliseconds, { status }) {
    const reason = status ? `the server answered ${status}` : "no connection";
    if (status === 423) this.state.textContent = "being stored";
    else this.state.textContent = `${reason}: next try in ${Math.ceil(milliseconds / 1000)} s`;
  }
}

/** Show the uploads to a collection that an earlier page did not finish. */
export async function showInterrupted(collection) {
  document.querySelectorAll("#uploads .interrupted").forEach((item) => item.remove());
  const known = memory.list().filter(({ key, place }) => {
    const [user, url] = Array.isArray(place) ? place : [];
    const isHere = url === collection.url || String(url).startsWith(`${collection.url}/`);
    return user === collection.user && isHere && !keysInUse.has(key);
  });
  await Promise.all(known.map((upload) => showInterruptedOne(collection, upload)));
}

async function showInterruptedOne(collection, { key, name, url }) {
  const upload = new ResumableUpload(collection, undefined, undefined, { url });
  try {
    const { offset, length } = await upload.inspect();
    if (keysInUse.has(key) || interruptedItem(key)) return;
    const item = makeItem(name);
    item.classList.add("interrupted");
    item.dataset.key = key;
    const part = offset / length;
    find("progress", item).value = part;
    find(".state", item).textContent =
      `interrupted at ${inPercent(part)}: choose the same file again to continue`;
    find(".cancel", item).addEventListener("click", () => {
      memory.forget(key);
      item.remove();
      find("#files").focus();
      terminate(upload);
    });
    find("#uploads").append(item);
  } catch (error) {
    if (isGone(error)) memory.forget(key);
    logError(error);
  }
}

function interruptedItem(key) {
  const items = document.querySelectorAll("#uploads .interrupted");
  return [...items].find((item) => item.dataset.key === key);
}

async function terminate(upload) {
  try {
    await upload.terminate();
    say("The upload was cancelled.");
  } catch (error) {
    logError(error);
    say(`The server did not take note that the upload was cancelled. ${error.message}`, true);
  }
}

function makeItem(name) {
  const item = find("#upload").content.cloneNode(true).firstElementChild;
  find(".name", item).textContent = name;
  find("progress", item).setAttribute("aria-label", `Upload of ${name}`);
  find(".cancel", item).setAttribute("aria-label", `Cancel the upload of ${name}`);
  return item;
}

function inPercent(part) {
  return `${Math.floor(part * 100)} %`;
}

function newId() {
  // Not randomUUID(): it is missing if the page comes neither by HTTPS nor from this machine.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
