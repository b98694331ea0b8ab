"""How long it takes to delete a bucket whose records have attachments."""

import time
import uuid
from dataclasses import dataclass

from bench.client import Body, Client, form, json_body
from bench.measure import Bar, Figure, Outcome
from bench.ways import PLAIN_RECORD, Place


FILE_BYTES = 1024
NO_BODY = Body("application/json", b"")


@dataclass(frozen=True)
class Deletion:
    """The deletion of a bucket beside that of plain records, and the unlinking of as many files."""

    title: str
    records: int
    place: Place = Place()

    def run(self, ground):
        """Return the times in seconds."""
        seconds = {
            "attachments": self._bucket(ground, "/attachment", "POST", form(FILE_BYTES)),
            "plain records": self._bucket(ground, "", "PUT", json_body({"data": PLAIN_RECORD})),
            "unlinking": self._unlinking(ground),
        }
        seconds["both"] = seconds["plain records"] + seconds["unlinking"]
        figures = {name: Figure(name, "s", [value]) for name, value in seconds.items()}
        title = f"deleting {self.title}: time / plain records + unlinking"
        return Outcome(
            f"deleting {self.title}", figures, (Bar(title, "attachments", "both", at_most=1.5),)
        )

    def _bucket(self, ground, suffix, method, body):
        client = Client(ground.server(self.place).port)
        try:
            bucket = f"/v1/buckets/{uuid.uuid4()}"
            collection = f"{bucket}/collections/files"
            for uri in (bucket, collection):
                client.send("PUT", uri, json_body({"data": {}}))
            for _ in range(self.records):
                client.send(method, f"{collection}/records/{uuid.uuid4()}{suffix}", body)
            ground.analyze(self.place)
            begin = time.perf_counter()
            client.send("DELETE", bucket, NO_BODY)
            return time.perf_counter() - begin
        finally:
            client.close()

    def _unlinking(self, ground):
        paths = [ground.files / uuid.uuid4().hex for _ in range(self.records)]
        for path in paths:
            path.write_bytes(b"x" * FILE_BYTES)
        begin = time.perf_counter()
        for path in paths:
            path.unlink()
        return time.perf_counter() - begin
