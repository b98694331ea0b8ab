// What tus-js-client does with resumable uploads. The arguments are those of `tus.Upload`, as JSON,
// a file, and what to do; it prints what the client reports, as lines of JSON.

const fs = require("fs");
const tus = require("tus-js-client");

const [, , options, path, mode] = process.argv;
const { parts = 4, ...given } = JSON.parse(options);
const content = fs.readFileSync(path);
const report = (what, more) => console.log(JSON.stringify({ what, ...more }));

function upload(url) {
  return new Promise((resolve, reject) => {
    const one = new tus.Upload(content, {
      ...given,
      ...(url ? { uploadUrl: url } : {}),
      retryDelays: [0, 100, 500],
      onUploadUrlAvailable: () => report("url", { url: one.url }),
      onProgress: (sent, total) => {
        // Once: what is aborted is resumed by another client, which knows the URL only.
        if (mode === "abort" && !url && sent >= total / 2) {
          one.abort().then(() => resolve(one.url));
        }
      },
      onShouldRetry: (error) => {
        report("retry", { status: error.originalResponse?.getStatus() });
        return true;
      },
      onError: reject,
      onSuccess: ({ lastResponse }) => {
        report("success", { etag: lastResponse.getHeader("ETag"), url: one.url });
        resolve(null);
      },
    });
    one.start();
  });
}

upload()
  .then((url) => (url ? upload(url) : null))
  .then((left) => process.exit(left ? 1 : 0))
  .catch((error) => {
    report("error", { message: error.message });
    process.exit(1);
  });
