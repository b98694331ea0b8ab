// The page: files that are dropped or chosen become records, and records are shown as a list.
// What comes from records and files is shown with textContent, never as HTML.

import { Collection } from "./attachments.js";
import { find, logError, say } from "./page.js";
import { Upload, showInterrupted } from "./uploads.js";

const ROOT = new URL("..", import.meta.url).href.replace(/\/$/, "");

const place = find("#place");
const drop = find("#drop");
const files = find("#files");
const records = find("#records");
const more = find("#more");

let collection;
let nextPage;
let lastUpload = Promise.resolve();

place.addEventListener("submit", (event) => {
  event.preventDefault();
  open();
});
files.addEventListener("change", () => {
  uploadAll(files.files);
  files.value = "";
});
more.addEventListener("click", showMore);
// Anywhere on the page: a file that misses the field would replace the page.
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  uploadAll(event.dataTransfer.files);
});

open();

async function open() {
  const { user, password, bucket, collection: id } = Object.fromEntries(new FormData(place));
  collection = new Collection(ROOT, user, password, bucket, id);
  records.replaceChildren();
  find("#empty").hidden = true;
  nextPage = undefined;
  await Promise.all([showMore(), showInterrupted(collection)]);
}

async function showMore() {
  await saying(async () => {
    const shown = collection;
    const page = await shown.list(nextPage);
    if (shown !== collection) return;
    nextPage = page.next;
    more.hidden = !nextPage;
    page.records.filter((record) => !cardOf(record.id)).forEach((record) => {
      records.append(makeCard(shown, record));
    });
    showWhetherEmpty();
  });
}

function uploadAll(list) {
  const into = collection;
  for (const file of list) {
    new Upload(into, file, {
      // One after another: each occupies a thread of the server.
      queue: (run) => (lastUpload = lastUpload.then(run)),
      onAttached: async (id) => {
        const record = await into.get(id);
        if (into !== collection) return;
        // A list that was being loaded may contain it already.
        cardOf(id)?.remove();
        records.prepend(makeCard(into, record));
        showWhetherEmpty();
      },
    });
  }
}

function replace(card, from, record, file) {
  const { id, last_modified: lastModified } = record;
  new Upload(from, file, { id, lastModified, onAttached: () => refresh(card, from, id) });
}

async function detach(card, from, record) {
  await saying(async () => {
    await from.detach(record.id, record.last_modified);
    await refresh(card, from, record.id);
    say(`${nameOf(record)} is deleted; the record stays.`);
  });
}

async function remove(card, from, record) {
  await saying(async () => {
    await from.remove(record.id, record.last_modified);
    if (card.isConnected) takeAway(card);
    say("The record is deleted, and its file with it.");
  });
}

function takeAway(card) {
  const neighbour = card.nextElementSibling ?? card.previousElementSibling;
  card.remove();
  showWhetherEmpty();
  (neighbour ? find(".name", neighbour) : find("#records-heading")).focus();
}

async function refresh(card, from, id) {
  const fresh = makeCard(from, await from.get(id));
  if (!card.isConnected) return;
  card.replaceWith(fresh);
  find(".name", fresh).focus();
}

function makeCard(from, record) {
  const card = find("#record").content.cloneNode(true).firstElementChild;
  const attachment = record.attachment;
  const name = nameOf(record);
  card.dataset.id = record.id;
  find(".id", card).textContent = record.id;
  find(".thumbnail", card).append(makeThumbnail(from, record));
  if (attachment) {
    const link = document.createElement("a");
    link.textContent = name;
    const url = webUrl(attachment.location);
    if (url) link.href = url;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    if (from.isPrivate(record)) {
      link.addEventListener("click", (event) => openPrivate(event, from, record.id));
    }
    find(".name", card).append(link);
    // The attachment of a record without a file of the server may be anything.
    find(".size", card).textContent = Number.isFinite(attachment.size) ? inUnits(attachment.size) : "?";
    find(".mimetype", card).textContent = attachment.mimetype;
    find(".hash", card).textContent = attachment.hash;
  } else {
    find(".name", card).textContent = name;
    for (const field of [".size", ".mimetype", ".hash"]) {
      const value = find(field, card);
      value.previousElementSibling.remove();
      value.remove();
    }
    find(".detach", card).remove();
  }
  const file = find(".file", card);
  file.addEventListener("change", () => replace(card, from, record, file.files[0]));
  const choose = () => file.click();
  const verb = attachment ? "Replace…" : "Attach…";
  connect(find(".replace", card), verb, `${verb} (${name})`, choose);
  const deleteFile = () => detach(card, from, record);
  connect(find(".detach", card), "Delete file", `Delete file (${name})`, deleteFile);
  const deleteRecord = () => remove(card, from, record);
  connect(find(".remove", card), "Delete record", `Delete record (${name})`, deleteRecord);
  return card;
}

function connect(button, text, label, action) {
  if (!button) return;
  button.textContent = text;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", action);
}

/** Show a private file, whose location is only for requests with credentials. */
function openPrivate(event, from, id) {
  event.preventDefault();
  saying(async () => window.open(webUrl(await from.link(id)), "_blank", "noopener,noreferrer"));
}

function makeThumbnail(from, record) {
  const { attachment } = record;
  if (!String(attachment?.mimetype).startsWith("image/")) return makeBadge(attachment);
  const image = document.createElement("img");
  image.alt = "";
  image.loading = "lazy";
  const giveUp = () => image.replaceWith(makeBadge(attachment));
  if (from.isPrivate(record)) {
    showByLinks(image, () => from.link(record.id), giveUp);
  } else {
    image.addEventListener("error", giveUp);
    image.src = webUrl(attachment.location);
  }
  return image;
}

/** Show an image through a link, and through another one if that has ended meanwhile. */
function showByLinks(image, askForLink, giveUp) {
  const show = async () => {
    const link = await askForLink().catch(logError);
    // A link comes back as long as it is valid: one that came back cannot be shown.
    if (link && webUrl(link) !== image.src) image.src = webUrl(link);
    else giveUp();
  };
  image.addEventListener("error", show);
  show();
}

function makeBadge(attachment) {
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.setAttribute("aria-hidden", "true");
  const extension = /\.(\w{1,5})$/.exec(attachment?.filename ?? "");
  badge.textContent = attachment ? (extension?.[1] ?? "file") : "–";
  return badge;
}

function cardOf(id) {
  return [...records.children].find((card) => card.dataset.id === id);
}

function nameOf(record) {
  const attachment = record.attachment;
  return attachment ? (attachment.original?.filename ?? attachment.filename) : "No file";
}

/** Return a location as a URL, or nothing if it is not one of HTTP (`javascript:…`). */
function webUrl(location) {
  try {
    const url = new URL(location, `${ROOT}/`);
    return ["http:", "https:"].includes(url.protocol) ? url.href : "";
  } catch {
    return "";
  }
}

function inUnits(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const step = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: step ? 3 : 4 });
  return `${number.format(bytes / 1000 ** step)} ${units[step]}`;
}

async function saying(action) {
  try {
    say("");
    await action();
  } catch (error) {
    logError(error);
    say(error.message, true);
  }
}

function showWhetherEmpty() {
  find("#empty").hidden = records.children.length > 0;
}
