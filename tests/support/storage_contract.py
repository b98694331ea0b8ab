"""The contract of storages, as tests. A backend is done when it passes."""

import os
import threading
import time

import pytest

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
