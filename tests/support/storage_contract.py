"""The contract of storages, as tests. A backend is done when it passes."""

import contextlib
import hashlib
import json
import os
import threading
import time

import pytest

from kinto_attachment.storage.contract import StorageError, Superseded
from tests.support.s3 import MIB, PART_BYTES


SIZES = {
    "no bytes": 0,
    "a few bytes": 11,
    "exactly one part": PART_BYTES,
    "one byte more than a part": PART_BYTES + 1,
    "several parts": 2 * PART_BYTES + MIB,
}


def stage(storage, content=b"once upon a time", name="story.txt", unique=False):
    staged = storage.stage(name, "text/plain", unique=unique)
    # In chunks as the parser hands them on, which do not fit into parts.
    for start in range(0, len(content), 300_000):
        staged.write(content[start : start + 300_000])
    return staged


def store(storage, content=b"once upon a time", name="story.txt", unique=False):
    staged = stage(storage, content, name, unique)
    try:
        return staged.publish()
    finally:
        staged.discard()


def read(storage, name):
    with storage.open(name) as stored:
        return stored.read()


class StoredFiles:
    """Subclasses have the fixtures ``storage``, which is empty, and ``inside``.

    ``inside()`` reads the storage itself, and returns the paths of stored and staged files.
    """

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    @pytest.mark.parametrize("unique", [False, True])
    def test_a_published_file_has_its_name_and_its_bytes(self, storage, inside, size, unique):
        content = os.urandom(size)
        assert store(storage, content, unique=unique) == "story.txt"
        assert read(storage, "story.txt") == content
        assert inside() == ["story.txt"]

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    def test_a_staged_file_is_invisible(self, storage, size):
        staged = stage(storage, b"x" * size)
        assert not storage.exists("story.txt")
        assert list(storage.files()) == []
        with pytest.raises(FileNotFoundError):
            storage.open("story.txt")
        staged.discard()

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    @pytest.mark.parametrize("unique", [False, True])
    def test_nothing_is_left_of_a_discarded_file(self, storage, inside, size, unique):
        staged = stage(storage, b"x" * size, unique=unique)
        staged.discard()
        staged.discard()
        assert inside() == []

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    def test_a_published_file_cannot_be_discarded(self, storage, size):
        staged = stage(storage, b"x" * size)
        name = staged.publish()
        staged.discard()
        staged.discard()
        assert storage.exists(name)

    def test_a_deleted_name_is_free_again(self, storage):
        storage.delete(store(storage, b"1"))
        assert store(storage, b"2") == "story.txt"

    def test_delete_returns_whether_there_was_a_file(self, storage, inside):
        name = store(storage)
        assert storage.delete(name) is True
        assert storage.delete(name) is False
        assert inside() == []

    def test_many_are_deleted_at_once_and_others_stay(self, storage, inside):
        names = [store(storage, name=f"folder/{number}.txt") for number in range(5)]
        assert storage.delete_many(names[1:]) == {}
        assert inside() == ["folder/0.txt"]

    def test_deleting_missing_files_is_no_failure(self, storage, inside):
        name = store(storage)
        assert storage.delete_many(["gone.txt", name, "folder/gone.txt"]) == {}
        assert storage.delete_many(["gone.txt"]) == {}
        assert storage.delete_many([]) == {}
        assert inside() == []

    def test_a_file_exists_from_publication_to_deletion(self, storage):
        assert not storage.exists("story.txt")
        store(storage)
        assert storage.exists("story.txt")
        storage.delete("story.txt")
        assert not storage.exists("story.txt")

    def test_all_stored_files_are_listed_and_staged_ones_are_not(self, storage):
        expected = {store(storage, name=name) for name in ("a.txt", "f/b.txt", "f/g/c.txt")}
        staged = stage(storage, b"x" * 2 * PART_BYTES, "f/d.txt")
        assert {stored.key for stored in storage.files()} == expected
        staged.discard()

    def test_the_list_has_size_and_date_of_files(self, storage):
        store(storage, b"once", name="f/a.txt")
        (stored,) = storage.files()
        assert (stored.key, stored.size) == ("f/a.txt", 4)
        # Several seconds: S3's clock is another one, in whole seconds.
        assert abs(stored.modified - time.time()) < 60

    @pytest.mark.parametrize("size", [11, 2 * PART_BYTES + MIB], ids=["small", "large"])
    def test_a_file_can_replace_another(self, storage, inside, size):
        store(storage, b"previous", name="f/story.txt")
        staged = storage.replace("f/story.txt", "text/plain")
        staged.write(b"2" * size)
        assert read(storage, "f/story.txt") == b"previous"
        assert staged.publish() == "f/story.txt"
        assert read(storage, "f/story.txt") == b"2" * size
        assert inside() == ["f/story.txt"]

    def test_a_replacement_needs_no_previous_file(self, storage, inside):
        staged = storage.replace("f/story.txt", "text/plain")
        staged.write(b"new")
        assert staged.publish() == "f/story.txt"
        assert inside() == ["f/story.txt"]

    def test_a_replacement_can_be_discarded(self, storage, inside):
        store(storage, b"previous")
        staged = storage.replace("story.txt", "text/plain")
        staged.write(b"x" * 2 * PART_BYTES)
        staged.discard()
        assert read(storage, "story.txt") == b"previous"
        assert inside() == ["story.txt"]

    def test_a_missing_file_cannot_be_opened(self, storage):
        with pytest.raises(FileNotFoundError):
            storage.open("gone.txt")

    @pytest.mark.parametrize(
        ("first", "length"),
        [(0, 16), (0, 1), (5, 4), (15, 1), (10, 100), (16, 5), (0, 0), (7, 0)],
    )
    def test_some_bytes_of_a_file_can_be_read(self, storage, first, length):
        content = b"once upon a time"
        store(storage, content)
        with storage.open_range("story.txt", first, length) as part:
            assert part.read() == content[first : first + length]

    def test_an_empty_file_has_no_bytes_to_read(self, storage):
        store(storage, b"")
        with storage.open_range("story.txt", 0, 0) as part:
            assert part.read() == b""

    def test_some_bytes_of_a_large_file_are_read_in_blocks(self, storage):
        content = os.urandom(2 * PART_BYTES + MIB)
        store(storage, content)
        first, length = PART_BYTES - 3, PART_BYTES + 7
        with storage.open_range("story.txt", first, length) as part:
            assert part.read(5) == content[first : first + 5]
            rest = b"".join(iter(lambda: part.read(100_000), b""))
            assert rest == content[first + 5 : first + length]
            assert part.read(1) == b""

    @pytest.mark.parametrize(("first", "length"), [(0, 10), (5, 5), (0, 0)])
    def test_a_missing_file_has_no_bytes(self, storage, first, length):
        with pytest.raises(FileNotFoundError):
            storage.open_range("gone.txt", first, length)

    def test_a_location_is_the_base_url_and_the_name(self, storage):
        assert storage.url("f/story.txt") == storage.base_url + "f/story.txt"


class StorageContract(StoredFiles):
    """For storages that never overwrite a file, unless they are asked to."""

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    def test_a_second_file_of_the_same_name_gets_a_number(self, storage, inside, size):
        assert store(storage, b"1" * size) == "story.txt"
        assert store(storage, b"2" * size) == "story-1.txt"
        assert store(storage, b"3" * size) == "story-2.txt"
        assert [read(storage, name) for name in inside()] == [
            b"2" * size,
            b"3" * size,
            b"1" * size,
        ]

    def test_a_key_taken_during_the_upload_is_not_overwritten(self, storage):
        staged = stage(storage, b"slow" * PART_BYTES)
        assert store(storage, b"quick") == "story.txt"
        assert staged.publish() == "story-1.txt"
        assert read(storage, "story.txt") == b"quick"
        assert read(storage, "story-1.txt") == b"slow" * PART_BYTES


class ListsIncompleteUploads:
    """For storages in which an upload that never ends leaves something behind.

    (moto's fake S3 says of all uploads that they began in 2010.)
    """

    def test_a_large_staged_file_is_an_incomplete_upload_until_it_ends(self, storage):
        kept = stage(storage, b"x" * 2 * PART_BYTES, "f/a.txt", unique=True)
        gone = stage(storage, b"x" * 2 * PART_BYTES, "f/b.txt")
        assert len(list(storage.incomplete_uploads())) == 2
        assert all(abs(time.time() - u.modified) < 60 for u in storage.incomplete_uploads())
        gone.discard()
        kept.publish()
        assert list(storage.incomplete_uploads()) == []


class AtomicNames:
    """For storages that keep concurrent equal names apart themselves."""

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_equal_names_at_once_never_overwrite_one_another(self, storage, inside, size):
        contents = [bytes([number]) * size for number in range(4)]
        staged = [stage(storage, content) for content in contents]
        names = [None] * len(staged)

        def publish(number):
            barrier.wait()
            names[number] = staged[number].publish()

        barrier = threading.Barrier(len(staged))
        threads = [threading.Thread(target=publish, args=(n,)) for n in range(len(staged))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert inside() == sorted(names)
        assert sorted(names) == ["story-1.txt", "story-2.txt", "story-3.txt", "story.txt"]
        assert [read(storage, name) for name in names] == contents


class SavedPartial:
    """What the database keeps of a partial file."""

    def __init__(self, storage, name="1f0c", key="story.txt", unique=False):
        self.storage = storage
        self.name = name
        self.generation = 0
        self.state = self._kept(storage.begin_partial(key, "text/plain", unique))

    def resume(self, size=None):
        self.generation += 1
        return self.storage.resume(self.name, self.state, self.generation, size)

    def append(self, content):
        """Append bytes as one request does."""
        file = self.resume(self.size())
        for start in range(0, len(content), 300_000):
            file.write(content[start : start + 300_000])
        self.keep(file)
        return file

    def keep(self, file):
        file.flush()
        self.state = self._kept(file.state)
        file.close()

    def size(self):
        return self.storage.partial_size(self.name, self.state)

    def discard(self, **options):
        self.storage.discard_partial(self.name, self.state, self.generation, **options)

    def publish(self, key=None):
        """Publish it as a request does that has appended nothing."""
        file = self.resume()
        published = file.publish(key or file.free_key("story.txt"))
        file.close()
        return published

    def _kept(self, state):
        return json.loads(json.dumps(state))


class ResumableContract:
    """For storages that take files in pieces (``ResumableFiles``)."""

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    @pytest.mark.parametrize("unique", [False, True])
    def test_a_file_in_pieces_is_that_of_its_key(self, storage, inside, size, unique):
        content = os.urandom(size)
        partial = SavedPartial(storage, unique=unique)
        for start in range(0, size, 3 * MIB):
            partial.append(content[start : start + 3 * MIB])
            assert partial.size() == min(size, start + 3 * MIB)
        if not size:
            partial.append(b"")
        assert not storage.exists("story.txt")
        assert list(storage.files()) == []
        file = partial.resume()
        assert file.sha256() in (None, hashlib.sha256(content).hexdigest())
        with file.open() as stream:
            assert stream.read() == content
        assert file.free_key("story.txt") == "story.txt"
        assert file.publish("story.txt")
        file.close()
        partial.discard()
        assert read(storage, "story.txt") == content
        assert inside() == ["story.txt"]

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    @pytest.mark.parametrize("unique", [False, True])
    def test_a_file_is_published_once_however_often_it_is_tried(
        self, storage, inside, size, unique
    ):
        content = os.urandom(size)
        partial = SavedPartial(storage, unique=unique)
        partial.append(content)
        assert partial.publish("story.txt")
        # As after a kill, of which the state says nothing.
        assert partial.publish("story.txt")
        partial.discard()
        partial.discard()
        assert read(storage, "story.txt") == content
        assert inside() == ["story.txt"]

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_a_key_that_is_taken_is_left(self, storage, inside, size):
        store(storage, b"other")
        content = os.urandom(size)
        partial = SavedPartial(storage)
        partial.append(content)
        assert not partial.publish("story.txt")
        assert partial.publish()
        partial.discard()
        assert (read(storage, "story.txt"), read(storage, "story-1.txt")) == (b"other", content)
        assert inside() == ["story-1.txt", "story.txt"]

    @pytest.mark.parametrize("size", [0, 11, PART_BYTES + 1], ids=["empty", "small", "large"])
    @pytest.mark.parametrize("unique", [False, True])
    def test_nothing_is_left_of_a_discarded_partial_file(self, storage, inside, size, unique):
        partial = SavedPartial(storage, unique=unique)
        partial.append(b"x" * size)
        partial.append(b"y")
        partial.append(b"z")
        partial.discard()
        partial.discard()
        assert inside() == []

    def test_a_file_of_another_size_is_not_taken_over(self, storage):
        partial = SavedPartial(storage)
        partial.append(b"once")
        for size in (0, 3, 5):
            with pytest.raises(Superseded):
                partial.resume(size)
        partial.append(b" upon")
        assert partial.size() == 9
        partial.discard()

    @pytest.mark.parametrize("size", [4, PART_BYTES + 4], ids=["small", "large"])
    def test_who_is_superseded_changes_nothing(self, storage, inside, size):
        partial = SavedPartial(storage)
        partial.append(b"x" * size)
        old = partial.resume()
        new = partial.resume()
        new.write(b"new")
        with contextlib.suppress(Superseded):
            old.write(b"older")
            old.flush()
        partial.keep(new)
        with contextlib.suppress(Superseded):
            old.write(b"oldest")
            old.flush()
        with contextlib.suppress(Superseded):
            old.rewind(size, partial.state)
        old.close()
        assert partial.size() == size + 3
        file = partial.resume()
        with file.open() as stream:
            assert stream.read() == b"x" * size + b"new"
        file.close()
        partial.discard()
        assert inside() == []

    @pytest.mark.parametrize("size", [4, PART_BYTES + 4], ids=["small", "large"])
    def test_nothing_is_left_of_a_request_that_goes_on_after_the_end(self, storage, inside, size):
        partial = SavedPartial(storage)
        partial.append(b"x" * 5)
        late = partial.resume()
        partial.discard()
        with contextlib.suppress(Superseded, StorageError):
            late.write(b"x" * size)
            late.flush()
        with contextlib.suppress(Superseded):
            late.rewind(5, None)
        late.close()
        assert inside() == []

    @pytest.mark.parametrize("size", [4, PART_BYTES + 4], ids=["small", "large"])
    def test_who_is_superseded_before_the_first_byte_changes_nothing(self, storage, size):
        partial = SavedPartial(storage)
        partial.append(b"x" * 5)
        old = partial.resume()
        for content in (b"y" * size, b"z"):
            partial.append(content)
            with contextlib.suppress(Superseded):
                old.write(b"older")
                old.flush()
        with contextlib.suppress(Superseded):
            old.rewind(5, partial.state)
        old.close()
        assert partial.publish("story.txt")
        partial.discard()
        assert read(storage, "story.txt") == b"xxxxx" + b"y" * size + b"z"

    @pytest.mark.parametrize("unique", [False, True])
    def test_nothing_is_left_of_a_worker_that_was_killed(self, storage, inside, unique):
        partial = SavedPartial(storage, unique=unique)
        file = partial.resume()
        file.write(b"x" * (2 * PART_BYTES + 4))
        file.flush()
        file.close()
        partial.discard(is_last=True)
        assert inside() == []

    @pytest.mark.parametrize("size", [4, PART_BYTES + 4], ids=["small", "large"])
    def test_bytes_that_were_saved_after_all_are_not_dropped(self, storage, size):
        partial = SavedPartial(storage)
        file = partial.resume()
        file.write(b"y" * size)
        partial.keep(file)
        if partial.state is not None:
            file.rewind(0, partial.state)
        file.close()
        assert partial.size() == size
        partial.append(b"z")
        file = partial.resume()
        with file.open() as stream:
            assert stream.read() == b"y" * size + b"z"
        file.close()
        partial.discard()

    @pytest.mark.parametrize("size", [4, PART_BYTES + 4], ids=["small", "large"])
    def test_bytes_that_were_dropped_do_not_come_back(self, storage, size):
        partial = SavedPartial(storage)
        partial.append(b"x" * 5)
        file = partial.resume()
        file.write(b"y" * size)
        file.rewind(5, partial.state)
        file.close()
        assert partial.size() == 5
        partial.append(b"z")
        file = partial.resume()
        with file.open() as stream:
            assert stream.read() == b"xxxxxz"
        file.close()
        partial.discard()
