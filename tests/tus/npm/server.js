// @tus/server: node server.js PORT FOLDER MAX_SIZE. Uploads below /expiring/ expire soon.

import http from "node:http";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";

const [, , port, directory, maxSize] = process.argv;

function makeServer(path, seconds) {
  const expirationPeriodInMilliseconds = seconds * 1000;
  const datastore = new FileStore({ directory, expirationPeriodInMilliseconds });
  return new Server({ path, datastore, maxSize: Number(maxSize) });
}

const usual = makeServer("/files", 3600);
const expiring = makeServer("/expiring", 2);

http
  .createServer((request, response) => {
    const server = request.url.startsWith("/expiring") ? expiring : usual;
    server.handle(request, response);
  })
  .listen(Number(port), "127.0.0.1");
