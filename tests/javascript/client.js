// What kinto-http.js does with attachments, step by step: each prints the record as a line of JSON.
//
// It is the library's build for browsers, since the one for Node.js takes Node's own fetch with
// forms that are not Node's own, and sends those wrongly.

const [, , root, collectionId] = process.argv;
const KintoClient = require("kinto-http/dist/kinto-http.js");

const headers = { Authorization: `Basic ${btoa("alice:secret")}` };
const collection = new KintoClient(root, { headers }).bucket("blog").collection(collectionId);

const dataUrl = (name, text) => `data:text/plain;name=${name};base64,${btoa(text)}`;
const print = ({ data }) => console.log(JSON.stringify(data));

async function main() {
  const created = await collection.addAttachment(dataUrl("one.txt", "one"), { title: "Spring" });
  const { id } = created.data;
  print(created);
  print(await collection.addAttachment(dataUrl("two.txt", "two"), { id, title: "Summer" }));
  await collection.removeAttachment(id);
  print(await collection.getRecord(id));
  const nameless = collection.addAttachment(dataUrl("..", "x"), { id });
  console.log(JSON.stringify(await nameless.catch((error) => error.message)));
}

main();
