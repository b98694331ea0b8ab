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


ATTACHED = ("records with attachments", "POST", "/attachment", form(FILE_BYTES))
PLAIN = ("plain records", "PUT", "", json_body({"data": PLAIN_RECORD}))
SERVERS = {"plugin": POSTGRESQL, "no plugin": WITHOUT_PLUGIN}


@dataclass(frozen=True)
class Listing:
    """The list of all records, with and without attachments, and on a server without the plugin.

    Both servers read the same records.
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
        attached, plain = "records with attachments, plugin", "plain records, plugin"
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
        client.send("PUT", bucket, json_body({"data": {}}))
        uris = {}
        for name, method, suffix, body in (ATTACHED, PLAIN):
            uris[name] = f"{bucket}/collections/{name.replace(' ', '-')}"
            client.send("PUT", uris[name], json_body({"data": {}}))
            for _ in range(self.records):
                client.send(method, f"{uris[name]}/records/{uuid.uuid4()}{suffix}", body)
        client.close()
        environment.analyze()
        return uris

    def _list(self, server, uri):
        client = Client(server.port)
        begin = time.perf_counter()
        answer = client.send("GET", f"{uri}/records", NO_BODY)
        seconds = time.perf_counter() - begin
        client.close()
        assert len(json.loads(answer)["data"]) == self.records
        return seconds
