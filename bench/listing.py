"""How long it takes to list the records of a collection."""

import json
import time
import uuid
from dataclasses import dataclass

from bench.client import NO_BODY, Client, form, json_body
from bench.comparison import in_turns
from bench.environment import POSTGRESQL, WITHOUT_PLUGIN
from bench.measure import Bar, Figure, Outcome
from bench.workloads import FILE_BYTES, PLAIN_RECORD


KINDS = ("records with attachments", "plain records")
BATCH = 25
"""Requests in a batch: Kinto's ``batch_max_requests``."""
SERVERS = {"plugin": POSTGRESQL, "no plugin": WITHOUT_PLUGIN}


@dataclass(frozen=True)
class Listing:
    """The list of all records, with and without attachments, and on a server without the plugin.

    Both servers read the same records. Those with attachments have copies of one.
    """

    records: int
    rounds: int = 9

    @property
    def title(self):
        return f"a list of {self.records:,} records"

    def run(self, environment):
        """Return the times of a list in milliseconds; the first round is not counted."""
        lists = {
            f"{name}, {server}": (server, uri)
            for name, uri in self._collections(environment).items()
            for server in SERVERS
        }
        figures = {name: Figure(name, "ms") for name in lists}
        for number in range(self.rounds + 1):
            for name in in_turns(tuple(lists), number):
                server, uri = lists[name]
                seconds = self._list(environment.server(SERVERS[server]), uri)
                if number:
                    figures[name].samples.append(seconds * 1000)
        attached, plain = (f"{name}, plugin" for name in KINDS)
        bars = (
            Bar(
                f"{self.title} with attachments: plugin / no plugin, time",
                attached,
                "records with attachments, no plugin",
                at_most=1.08,
                stretch_goal=1.03,
            ),
            Bar(f"{self.title}: with attachments / plain, time", attached, plain, at_most=1.2),
        )
        return Outcome(self.title, figures, bars)

    def _collections(self, environment):
        """Return ``{name: URI}`` of two new collections that are full."""
        client = Client(environment.server(POSTGRESQL).port)
        bucket = f"/v1/buckets/{uuid.uuid4()}"
        uris = {name: f"{bucket}/collections/{name.replace(' ', '-')}" for name in KINDS}
        for uri in (bucket, *uris.values()):
            client.send("PUT", uri, json_body({"data": {}}))
        attached, plain = uris.values()
        path = f"{attached}/records/{uuid.uuid4()}/attachment"
        attachment = json.loads(client.send("POST", path, form(FILE_BYTES)))
        self._fill(client, attached, {"attachment": attachment}, self.records - 1)
        self._fill(client, plain, PLAIN_RECORD, self.records)
        client.close()
        environment.analyze()
        return uris

    def _fill(self, client, collection, record, count):
        for begin in range(0, count, BATCH):
            requests = [
                {"path": f"{collection}/records/{uuid.uuid4()}", "body": {"data": record}}
                for _ in range(begin, min(begin + BATCH, count))
            ]
            batch = {"defaults": {"method": "PUT"}, "requests": requests}
            client.send("POST", "/v1/batch", json_body(batch))

    def _list(self, server, uri):
        client = Client(server.port)
        begin = time.perf_counter()
        answer = client.send("GET", f"{uri}/records", NO_BODY)
        seconds = time.perf_counter() - begin
        client.close()
        assert len(json.loads(answer)["data"]) == self.records
        return seconds
