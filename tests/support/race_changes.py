"""Every kind of change of a record: its request, and its effect on the record.

Two concurrent requests must have the result of running one after the other, in either order:
``outcomes`` returns the results of a pair.
"""

import itertools
from dataclasses import dataclass, field, replace


JSON_PATCH = {"Content-Type": "application/json-patch+json"}
DANGLING = "a file that is gone"
"""The file of a record whose client wrote the metadata of a file that had been deleted before."""


class Refused(Exception):
    """The change is refused after the one before it."""


@dataclass(frozen=True)
class State:
    """What a change finds and leaves.

    :ivar data: attributes of the record, ``None`` where there is none. Of its attachment the
        content of the file, as ``file``.
    :ivar public: whether everybody may read it.
    :ivar source: whether the record that others copy from is there.
    :ivar changed: whether the record has changed since its ETag was read.
    """

    data: dict | None = field(default_factory=lambda: {"title": "old", "file": "first"})
    public: bool = False
    source: bool = True
    changed: bool = False

    def patched(self, **changes):
        if self.data is None:
            raise Refused
        return replace(self, data={**self.data, **changes}, changed=True)

    def put(self, **data):
        return replace(self, data=data, changed=True)


def upload(state):
    return state.put(**{**(state.data or {}), "file": "uploaded"})


def upload_if_match(state):
    return upload(_if_unchanged(state))


def detach(state):
    if state.data is None:
        raise Refused
    return state.put(**{name: value for name, value in state.data.items() if name != "file"})


def copy(state):
    has_file = state.data is not None and state.data.get("file", DANGLING) != DANGLING
    if not state.source and has_file:
        raise Refused
    return state.put(title="copy", file="source" if state.source else DANGLING)


def put_whole(state):
    """Replace the record by what it was, with its attachment."""
    has = (state.data or {}).get("file", DANGLING)
    if has not in ("first", DANGLING):
        raise Refused
    return state.put(title="whole", file=has)


def put_title(state):
    """Replace a record that was not there by one without a file."""
    return state.put(title="whole")


def put_without(state):
    return state.put(title="without")


def patch_if_match(state):
    return _if_unchanged(state).patched(title="matched")


def permissions(state):
    return replace(state.patched(), public=True)


def delete(state):
    if state.data is None:
        raise Refused
    return replace(state, data=None, public=False, changed=True)


def delete_all(state):
    return State(data=None, source=False, changed=True)


def _if_unchanged(state):
    if state.changed or state.data is None:
        raise Refused
    return state


def patch(**changes):
    return lambda state: state.patched(**changes)


EFFECTS = {
    "upload new": upload,
    "upload over": upload,
    "upload if match": upload_if_match,
    "detach": detach,
    "copy": copy,
    "put whole": put_whole,
    "put without": put_without,
    "patch": patch(title="patched"),
    "patch if match": patch_if_match,
    "permissions": permissions,
    "json patch": patch(noted=True),
    "batch": patch(batched=True),
    "delete": delete,
    "delete list": delete_all,
    "collection": delete_all,
    "bucket": delete_all,
    "flush": delete_all,
}

CONTAINERS = ("collection", "bucket", "flush")
"""Those that delete what the record is in, which is made again then."""

DELETING = ("delete", "delete list", *CONTAINERS)


def outcomes(names, acknowledged, is_new):
    """Return the states that these changes may leave, those of them that were acknowledged."""
    initial = State(data=None) if is_new else State()
    found = []
    for order in itertools.permutations(zip(names, acknowledged, strict=True)):
        state = initial
        try:
            for name, is_acknowledged in order:
                if is_acknowledged:
                    is_plain = is_new and name == "put whole"
                    state = (put_title if is_plain else EFFECTS[name])(state)
        except Refused:
            continue
        found.append((state.data, state.public, state.source))
    return found


class Round:
    """Two records, one that is changed, and one to copy from."""

    def __init__(self, cluster, collection, number, is_new):
        self._cluster = cluster
        self.bucket = collection.rsplit("/", 2)[0]
        self.collection = collection
        self.record = f"{collection}/records/r{number}"
        self.source = f"{collection}/records/source{number}"
        answer = cluster.upload(self.source, b"source")
        answer.raise_for_status()
        self._copied = answer.json()
        self._etag, self._carried = '"1"', {}
        if not is_new:
            answer = cluster.upload(self.record, b"first", data={"data": '{"title": "old"}'})
            answer.raise_for_status()
            self._etag, self._carried = answer.headers["ETag"], {"attachment": answer.json()}

    def send(self, name):
        """Send a change, and return the answer."""
        if name.startswith("upload"):
            headers = {"If-Match": self._etag} if name == "upload if match" else {}
            return self._cluster.upload(self.record, b"uploaded", headers=headers)
        method = f"{name}_" if name in ("collection", "bucket") else name.replace(" ", "_")
        return getattr(self, method)()

    def detach(self):
        return self._cluster.request("DELETE", f"{self.record}/attachment")

    def copy(self):
        return self._write("PUT", title="copy", attachment=self._copied)

    def put_whole(self):
        return self._write("PUT", title="whole", **self._carried)

    def put_without(self):
        return self._write("PUT", title="without")

    def patch(self):
        return self._write("PATCH", title="patched")

    def patch_if_match(self):
        return self._write("PATCH", headers={"If-Match": self._etag}, title="matched")

    def permissions(self):
        body = {"permissions": {"read": ["system.Everyone"]}}
        return self._cluster.request("PATCH", self.record, json=body)

    def json_patch(self):
        operations = [{"op": "add", "path": "/data/noted", "value": True}]
        return self._cluster.request("PATCH", self.record, json=operations, headers=JSON_PATCH)

    def batch(self):
        requests = [
            {"method": "PATCH", "path": path, "body": {"data": {"batched": True}}}
            for path in (self.record, self.source)
        ]
        answer = self._cluster.request("POST", "/batch", json={"requests": requests})
        if answer.ok:
            # What counts is the answer on the record.
            answer.status_code = answer.json()["responses"][0]["status"]
        return answer

    def delete(self):
        return self._cluster.request("DELETE", self.record)

    def delete_list(self):
        return self._cluster.request("DELETE", f"{self.collection}/records")

    def collection_(self):
        answer = self._cluster.request("DELETE", self.collection)
        self._make_again()
        return answer

    def bucket_(self):
        answer = self._cluster.request("DELETE", self.bucket)
        self._make_again()
        return answer

    def flush(self):
        answer = self._cluster.request("POST", "/__flush__")
        self._make_again()
        return answer

    def left(self):
        """Return what there is: the attributes, whether they are public, whether the source is."""
        self._cluster.wait_for_deletions()
        source = self._cluster.request("GET", self.source)
        answer = self._cluster.request("GET", self.record)
        if not answer.ok:
            return None, False, source.ok
        found = answer.json()
        data = found["data"]
        attachment = data.get("attachment")
        kept = {name: data[name] for name in ("title", "noted", "batched") if name in data}
        if attachment:
            path = self._cluster.folder / attachment["location"]
            kept["file"] = path.read_text() if path.exists() else DANGLING
        return kept, "system.Everyone" in found["permissions"].get("read", ()), source.ok

    def _write(self, method, headers=None, **data):
        return self._cluster.request(method, self.record, json={"data": data}, headers=headers)

    def _make_again(self):
        for path in (self.bucket, self.collection):
            self._cluster.request("PUT", path, json={"data": {}})
