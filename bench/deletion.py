"""How long it takes to delete a bucket whose records have attachments."""

import time
import uuid
from dataclasses import dataclass

from bench.client import NO_BODY, Client, form, json_body
from bench.measure import Bar, Figure, Outcome
from bench.workloads import PLAIN_RECORD, Setup


FILE_BYTES = 1024


@dataclass(frozen=True)
class Deletion:
    """The deletion of a bucket beside that of plain records, and the unlinking of as many files.

    The files are deleted after the response: how long that takes is measured as well.
    """

    title: str
    records: int
    setup: Setup = Setup()
    rounds: int = 3

    def run(self, environment):
        """Return the times in seconds."""
        names = ("attachments", "plain records", "unlinking", "until the files are gone")
        figures = {name: Figure(name, "s") for name in names}
        for _ in range(self.rounds):
            for name, seconds in self._round(environment).items():
                figures[name].samples.append(seconds)
        title = f"deleting {self.title}: time / plain records + unlinking"
        bar = Bar(title, "attachments", "plain records", at_most=1.5, plus="unlinking")
        return Outcome(f"deleting {self.title}", figures, (bar,))

    def _round(self, environment):
        folder = environment.new_folder()
        answered, gone = self._bucket(environment, "/attachment", "POST", form(FILE_BYTES), folder)
        plain, _ = self._bucket(environment, "", "PUT", json_body({"data": PLAIN_RECORD}))
        return {
            "attachments": answered,
            "plain records": plain,
            "unlinking": _unlinking(folder),
            "until the files are gone": gone,
        }

    def _bucket(self, environment, suffix, method, body, beside=None):
        """Fill a bucket, and return how long its deletion takes, without and with its files.

        :param beside: a folder that gets a file with each request, so that there are as many files
            as the server has, and as old: ext4 unlinks in a fraction of the time what it has not
            yet written.
        """
        client = Client(environment.server(self.setup).port)
        try:
            files = environment.count_files()
            bucket = f"/v1/buckets/{uuid.uuid4()}"
            collection = f"{bucket}/collections/files"
            for uri in (bucket, collection):
                client.send("PUT", uri, json_body({"data": {}}))
            for _ in range(self.records):
                client.send(method, f"{collection}/records/{uuid.uuid4()}{suffix}", body)
                if beside:
                    (beside / uuid.uuid4().hex).write_bytes(b"x" * FILE_BYTES)
            environment.analyze()
            begin = time.perf_counter()
            client.send("DELETE", bucket, NO_BODY)
            answered = time.perf_counter() - begin
            while beside and environment.count_files() > files:
                time.sleep(0.01)
            return answered, time.perf_counter() - begin
        finally:
            client.close()


def _unlinking(folder):
    paths = list(folder.iterdir())
    begin = time.perf_counter()
    for path in paths:
        path.unlink()
    return time.perf_counter() - begin
