"""Compressed files, in both directions."""

import gzip
import hashlib
import os

import pytest
import requests

from kinto_attachment.scripts.names import record_id
from tests.support.fake_kinto import (
    cut_off,
    described,
)
from tests.support.scripts import (
    STORY,
    actions,
    download_ranges,
    everything_in,
    failures,
    names_in,
    tree,
)


def test_gzip_describes_the_original_in_the_record(scripts, tmp_path):
    content = b"once upon a time " * 100_000
    (tmp_path / "story.txt").write_bytes(content)
    scripts.upload(tmp_path / "story.txt", "--gzip")
    record = scripts.records()["story.txt"]
    assert record["original"] == {**described("story.txt", content), "mimetype": "text/plain"}
    attachment = record["attachment"]
    stored = requests.get(attachment["location"]).content
    assert gzip.decompress(stored) == content
    location = {"location": attachment["location"], "mimetype": "application/x-gzip"}
    assert attachment == {**described("story.txt.gz", stored), **location}
    scripts.download(tmp_path / "copy")
    assert (tmp_path / "copy" / "story.txt").read_bytes() == content


def test_gzipped_files_are_not_sent_again(scripts, source):
    scripts.upload(source, "-r", "--gzip")
    assert actions(scripts.upload(source, "-r", "--gzip")) == {"unchanged": names_in(source)}
    assert actions(scripts.upload(source, "-r")) == {"unchanged": names_in(source)}


def test_equal_files_are_compressed_to_equal_bytes(scripts, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"once upon a time")
        os.utime(tmp_path / name, (ord(name), ord(name)))
    scripts.upload(tmp_path / "a", tmp_path / "b", "--gzip")
    records = scripts.records()
    assert records["a"]["attachment"]["hash"] == records["b"]["attachment"]["hash"]


def test_file_sent_as_it_is_after_a_gzipped_one_has_no_original(scripts, tmp_path):
    (tmp_path / "story.txt").write_bytes(b"once upon a time")
    scripts.upload(tmp_path / "story.txt", "--gzip")
    (tmp_path / "story.txt").write_bytes(b"the end")
    scripts.upload(tmp_path / "story.txt")
    assert scripts.records()["story.txt"]["original"] is None
    assert actions(scripts.upload(tmp_path / "story.txt")) == {"unchanged": {"story.txt"}}


def test_file_that_the_server_compressed_is_known_by_its_original(upload_to, kinto, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    record = kinto.add("a.txt.gz", gzip.compress(b"a"), original=described("a.txt", b"a"))
    record["id"] = record_id("a.txt")
    assert actions(upload_to(tmp_path / "a.txt")) == {"unchanged": {"a.txt"}}


# Downloads


def compressed(kinto, where, content=STORY, **changes):
    """Add a record whose file is compressed, as described in its attachment or in the record."""
    original = {**described("story.txt", content), **changes}
    record = kinto.add("story.txt.gz", gzip.compress(content))
    (record["attachment"] if where == "attachment" else record)["original"] = original
    return record


@pytest.mark.parametrize("where", ["attachment", "record"])
def test_compressed_file_is_decompressed(kinto, get, folder, where):
    compressed(kinto, where)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY
    assert actions(get("--full")) == {"unchanged": {"story.txt"}}
    assert everything_in(folder) == {"story.txt", ".last_sync"}


def test_interrupted_download_of_a_compressed_file_resumes(kinto, get, folder):
    compressed(kinto, "record")
    kinto.files["stored-1"] = cut_off(kinto.files["stored-1"], after=20)
    get("--retry", 0, code=1)
    get()
    assert download_ranges(kinto) == [None, "bytes=20-"]
    assert (folder / "story.txt").read_bytes() == STORY


@pytest.mark.parametrize("where", ["attachment", "record"])
def test_decompression_ends_at_the_size_of_the_original(kinto, get, folder, where):
    bomb = b"\0" * (64 << 20)
    compressed(kinto, where, bomb, size=1000)
    message = failures(get(code=1))["story.txt"]
    assert message == "decompressed, it has more than its 1000 bytes"
    assert "story.txt" not in everything_in(folder)
    assert sum(p.stat().st_size for p in (folder / ".partial").iterdir()) < 1 << 20


def test_wrong_original_is_refused(kinto, get, folder):
    compressed(kinto, "record", hash="0" * 64)
    compressed(kinto, "record")
    kinto.records[1]["original"]["filename"] = "right.txt"
    assert "decompressed, its hash is" in failures(get(code=1))["story.txt"]
    # Only what was downloaded for it is left, nothing that was decompressed, nor of the other.
    [partial] = tree(folder / ".partial").values()
    assert partial == hashlib.sha256(kinto.files["stored-1"]).hexdigest()
    assert "story.txt" not in everything_in(folder)
    assert (folder / "right.txt").read_bytes() == STORY


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(STORY)[:-10]], ids=["not gzip", "cut off"]
)
def test_file_that_cannot_be_decompressed_fails(kinto, get, content):
    kinto.add("story.txt.gz", content, original=described("story.txt", STORY))
    assert "cannot be decompressed" in failures(get(code=1))["story.txt"]


def test_original_of_a_previous_file_is_ignored(kinto, get, folder):
    kinto.add("photo.jpg", b"a photo")
    kinto.records[0]["original"] = described("story.txt", STORY)
    get()
    assert tree(folder).keys() == {"photo.jpg"}


def test_content_encoding_of_the_transfer_is_not_decoded(kinto, get, folder):
    content = gzip.compress(STORY)
    headers = {"Content_Encoding": "gzip"}
    kinto.add("a.gz", content, served=lambda handler: handler.answer(200, content, **headers))
    get()
    assert (folder / "a.gz").read_bytes() == content
