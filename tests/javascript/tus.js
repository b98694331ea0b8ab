// What tus-js-client does with uploads: node tus.js URL SCENARIO FILE. It prints a line of JSON with
// the URL of the upload and its requests.

const fs = require("node:fs");
const { PassThrough } = require("node:stream");
const tus = require("tus-js-client");

const [, , endpoint, scenario, path] = process.argv;
const CHUNK = 1 << 20;

const requests = [];

// Start an upload, and return it when it has ended; `progress` gets it after each chunk.
function send(options, { source = fs.createReadStream(path), progress, previous } = {}) {
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(source, {
      endpoint,
      headers: { Authorization: `Basic ${btoa("alice:secret")}` },
      metadata: { filename: "film.mp4", filetype: "video/mp4" },
      retryDelays: [0, 100, 1000],
      ...options,
      onAfterResponse: (request, response) => {
        const offset = response.getHeader("Upload-Offset");
        requests.push([request.getMethod(), response.getStatus(), offset && Number(offset)]);
      },
      onChunkComplete: () => progress?.(upload, resolve),
      onSuccess: () => resolve(upload),
      onError: reject,
    });
    if (previous) upload.resumeFromPreviousUpload(previous);
    upload.start();
  });
}

// (The client takes the stream of a file for the file, and looks for its end beyond it. It waits
// forever for the end of another one that has exactly so many chunks.)
const streamOfUnknownLength = () => fs.createReadStream(path).pipe(new PassThrough());

// Abort after the second chunk.
const interrupt = (terminate) => async (upload, resolve) => {
  if (upload.url && requests.filter(([method]) => method === "PATCH").length === 2) {
    await upload.abort(terminate);
    resolve(upload);
  }
};

const SCENARIOS = {
  whole: () => send({}),
  chunked: () => send({ chunkSize: CHUNK }),
  "creation with data": () => send({ uploadDataDuringCreation: true }),
  "creation with a chunk": () => send({ uploadDataDuringCreation: true, chunkSize: CHUNK }),
  empty: () => send({}, { source: Buffer.alloc(0) }),
  "deferred length": () =>
    send({ uploadLengthDeferred: true, chunkSize: CHUNK + 1 }, { source: streamOfUnknownLength() }),
  "method override": () => send({ overridePatchMethod: true, chunkSize: CHUNK }),
  terminated: () => send({ chunkSize: CHUNK }, { progress: interrupt(true) }),
  parallel: () => send({ parallelUploads: 2 }),

  async resumed() {
    const urlStorage = new tus.FileUrlStorage(`${path}.urls`);
    const options = { chunkSize: CHUNK, urlStorage };
    const first = await send(options, { progress: interrupt(false) });
    const [previous] = await first.findPreviousUploads();
    return send(options, { previous });
  },
};

SCENARIOS[scenario]()
  .then(({ url }) => ({ url }))
  .catch((error) => ({ error: error.message }))
  .then((result) => console.log(JSON.stringify({ ...result, requests })));
