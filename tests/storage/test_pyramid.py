"""Files in any backend of pyramid_storage."""

import io

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid_storage.interfaces import IFileStorage
from pyramid_storage.local import LocalFileStorage

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.pyramid import IN_MEMORY_BYTES, PyramidStorage
from tests.support.app import ATTACHMENT
from tests.support.forms import file_part, part
from tests.support.storage_contract import read, store
from tests.support.users import ALICE


@pytest.fixture
def app(make_app, tmp_path):
    return make_with(make_app, tmp_path, "pyramid_storage.local")


def make_with(make_app, tmp_path, backend, **settings):
    # pyramid_storage reads names without the prefix of Kinto.
    return make_app(
        attachment__base_path="",
        attachment__backend=backend,
        storage__base_path=str(tmp_path / "files"),
        **settings,
    )


def test_files_are_stored_by_the_local_backend_of_pyramid_storage(app):
    attachment = app.upload(file_part(b"once upon a time", "story.txt")).json
    assert isinstance(app.registry.getUtility(IFileStorage), LocalFileStorage)
    assert app.files() == {attachment["location"]: b"once upon a time"}


def test_previous_and_detached_files_are_deleted(app):
    app.upload(file_part(b"old"))
    app.upload(file_part(b"new"))
    assert list(app.files().values()) == [b"new"]
    app.delete(ATTACHMENT, headers=ALICE)
    assert app.files() == {}


def test_nothing_is_left_of_a_file_whose_form_is_refused(app):
    app.upload(file_part(), part("data", "{not JSON"), status=400)
    assert app.files() == {}


def test_extensions_are_those_of_the_plugin_and_not_of_the_backend(make_app, tmp_path):
    app = make_with(make_app, tmp_path, "pyramid_storage.local", attachment__extensions="any")
    app.upload(file_part(b"1", "a.exe"))
    app.upload(file_part(b"2", "no-extension"))
    assert list(app.files().values()) == [b"2"]


def test_locations_have_the_base_url_of_the_plugin_or_of_the_backend(tmp_path):
    backend = LocalFileStorage(str(tmp_path), "https://backend.example.org/")
    assert PyramidStorage(backend).url("a.txt") == "https://backend.example.org/a.txt"
    ours = PyramidStorage(backend, "https://cdn.example.org/")
    assert ours.url("a b.txt") == "https://cdn.example.org/a%20b.txt"


def test_the_heartbeat_works(app):
    assert app.get("/__heartbeat__").json["attachments"] is True
    assert app.files() == {}


class WriteOnly:
    """A backend like that of Google Cloud: nothing but the interface, and equal names are lost."""

    def __init__(self):
        self.files = {}
        self.headers = {}

    def exists(self, name):
        return name in self.files

    def delete(self, name):
        del self.files[name]

    def save_file(self, file, filename, folder=None, extensions=None, headers=None):
        name = f"{folder}/{filename}" if folder else filename
        if name not in self.files:
            file.seek(0)
            self.files[name] = file.read()
            self.headers[name] = headers
        return name


def test_the_heartbeat_works_if_files_cannot_be_opened(app):
    backend = WriteOnly()
    heartbeat = app.registry.heartbeats["attachments"]
    heartbeat._storage = PyramidStorage(backend)
    assert app.get("/__heartbeat__").json["attachments"] is True
    assert backend.files == {}


def test_equal_names_do_not_overwrite_although_the_backend_would():
    backend = WriteOnly()
    storage = PyramidStorage(backend)
    names = [store(storage, content) for content in (b"1", b"2")]
    assert backend.files == dict(zip(names, (b"1", b"2"), strict=True))


def test_the_backend_receives_the_mimetype():
    backend = WriteOnly()
    name = store(PyramidStorage(backend))
    assert backend.headers[name] == {"Content-Type": "text/plain"}


def test_a_large_file_is_spooled(tmp_path):
    storage = PyramidStorage(LocalFileStorage(str(tmp_path)))
    content = b"x" * (3 * IN_MEMORY_BYTES)
    assert read(storage, store(storage, content)) == content


def test_any_error_of_a_backend_is_a_storage_error(tmp_path):
    class Broken(WriteOnly):
        def save_file(self, *args, **kwargs):
            raise RuntimeError("no such bucket")

        def delete(self, name):
            raise RuntimeError("no such bucket")

    backend = Broken()
    storage = PyramidStorage(backend)
    with pytest.raises(StorageError, match="no such bucket"):
        store(storage)
    backend.files["a.txt"] = b""
    assert list(storage.delete_many(["gone.txt", "a.txt"])) == ["a.txt"]


class FillingUp(WriteOnly):
    """A backend that is full before the end of a file, and keeps what it has got."""

    def save_file(self, file, filename, folder=None, extensions=None, headers=None):
        self.files[filename] = b"once "
        raise OSError("No space left on device")


@pytest.mark.parametrize(("unique", "left"), [(True, {}), (False, {"story.txt": b"once "})])
def test_a_partial_file_is_deleted_if_its_key_is_unique(unique, left):
    backend = FillingUp()
    with pytest.raises(StorageError, match="No space left"):
        store(PyramidStorage(backend), unique=unique)
    assert backend.files == left


def test_a_partial_replacement_is_deleted():
    backend = FillingUp()
    backend.files["story.txt"] = b"previous"
    staged = PyramidStorage(backend).replace("story.txt", "text/plain")
    with pytest.raises(StorageError, match="No space left"):
        staged.publish()
    assert backend.files == {}


@pytest.mark.parametrize("backend", ["no.such.module", "tests.support.backend_without_storage"])
def test_a_module_without_a_backend_stops_the_server(make_app, tmp_path, backend):
    with pytest.raises(ConfigurationError, match=r"kinto\.attachment\.backend"):
        make_with(make_app, tmp_path, backend)


class OnlyForwards:
    """A stream that cannot skip anything."""

    def __init__(self, content):
        self._content = content

    def read(self, size):
        block, self._content = self._content[:size], self._content[size:]
        return block

    def close(self):
        pass


def test_a_part_of_a_file_that_the_backend_cannot_skip_to_is_read_up_to(tmp_path):
    backend = LocalFileStorage(str(tmp_path), "")
    backend.open = lambda key: OnlyForwards(b"once upon a time")
    with PyramidStorage(backend).open_range("story.txt", 5, 4) as part_of_file:
        assert part_of_file.read() == b"upon"


def test_a_backend_may_have_parts_of_files_itself(tmp_path):
    backend = LocalFileStorage(str(tmp_path), "")
    backend.open_range = lambda key, first, length: io.BytesIO(f"{key} {first} {length}".encode())
    with PyramidStorage(backend).open_range("story.txt", 5, 4) as part_of_file:
        assert part_of_file.read() == b"story.txt 5 4"
