"""A Kinto inside the process of the tests."""

from pathlib import Path

import webtest
from kinto import main as kinto_main
from kinto.core.events import ResourceChanged

from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.settings import base_settings
from tests.support.users import ALICE


RECORD = "/buckets/blog/collections/photos/records/first"
ATTACHMENT = f"{RECORD}/attachment"


class App(webtest.TestApp):
    """A Kinto inside the test process, with its files in a local folder."""

    def __init__(self, folder, **settings):
        self.folder = Path(folder)
        self.settings = base_settings() | {"kinto.attachment.base_path": str(folder)} | settings
        super().__init__(kinto_main({}, **self.settings), lint=False)
        self.registry = self.app.registry
        for backend in ("storage", "permission", "cache"):
            getattr(self.registry, backend).initialize_schema()
        self._made = set(self.folder.rglob("*"))
        self._handlers = set(self._registered_handlers())

    def reset(self):
        """Delete all data and files, and the event handlers that a test has added."""
        super().reset()
        self.wait_for_deletions()
        for factory, required in set(self._registered_handlers()) - self._handlers:
            self.registry.unregisterHandler(factory, required)
        for backend in ("storage", "permission", "cache"):
            getattr(self.registry, backend).flush()
        for path in sorted(set(self.folder.rglob("*")) - self._made, reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()

    def _registered_handlers(self):
        return ((entry.factory, entry.required) for entry in self.registry.registeredHandlers())

    def do_request(self, req, *args, **kwargs):
        req.path_info = "/v1" + req.path_info
        return super().do_request(req, *args, **kwargs)

    def create_collection(self, bucket="blog", collection="photos", headers=ALICE, **data):
        self.put_json(f"/buckets/{bucket}", headers=headers)
        self.put_json(
            f"/buckets/{bucket}/collections/{collection}", {"data": data}, headers=headers
        )

    def upload(self, *parts, url=ATTACHMENT, headers=ALICE, **kwargs):
        """Post a form with these parts, by default one small file."""
        body = multipart(*(parts or [file_part()]))
        content_type = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.post(url, body, headers={**content_type, **headers}, **kwargs)

    def upload_raw(self, stream, length, url=ATTACHMENT, headers=ALICE, **kwargs):
        """Post a body that is read from a stream, of a length that may be a lie or unknown."""
        request = webtest.TestRequest.blank(url, method="POST", headers=headers)
        request.content_type = f"multipart/form-data; boundary={BOUNDARY}"
        request.environ["wsgi.input"] = stream
        request.environ["wsgi.input_terminated"] = True
        request.content_length = length
        return self.do_request(request, **kwargs)

    def state(self):
        """Return all that an upload could change: the record, the files and the links."""
        record = self.get(RECORD, headers=ALICE, status="*").json
        return record, self.files(), self.links()

    def listen(self, action=None):
        """Return a list to which Kinto's ``ResourceChanged`` events of records are added."""
        events = []

        def listener(event):
            if event.payload["resource_name"] == "record":
                (action or events.append)(event)

        self.registry.registerHandler(listener, (ResourceChanged,))
        return events

    def record(self, url=RECORD, headers=ALICE):
        return self.get(url, headers=headers).json["data"]

    def files(self):
        """Return ``{name: content}`` of all there is in the folder, staged files included."""
        self.wait_for_deletions()
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def stored(self, attachment):
        """Return the content of an attachment's file, found by its location."""
        return (self.folder / attachment["location"].removeprefix(self.base_url)).read_bytes()

    @property
    def base_url(self):
        return self.settings.get("kinto.attachment.base_url", "")

    def links(self):
        """Return the file links in Kinto's storage."""
        return self.registry.storage.list_all("attachments", "__attachments__*")

    def released(self):
        """Return the locations that are written down to be deleted."""
        self.wait_for_deletions()
        rows = self.registry.storage.list_all("attachment-releases", "__attachments__/releases/*")
        return sorted(location for row in rows for location in row["locations"])

    def wait_for_deletions(self):
        """Wait until the files are deleted that no record refers to any more.

        (A Kinto without the plugin deletes none.)
        """
        if hasattr(self.registry, "attachments"):
            assert self.registry.attachments.uploads.wait_until_idle(60)
            assert self.registry.attachments.deletions.wait_until_idle(60)

    def retry_deletions(self):
        """Have a request be the first one of a worker, or the first for a minute."""
        self.get("/__lbheartbeat__")
        self.wait_for_deletions()
