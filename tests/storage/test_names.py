"""Keys of stored files: how they are made, and how numbers are appended."""

import re

import pytest

from kinto_attachment.storage.names import candidate_keys, make_key


@pytest.mark.parametrize(
    ("filename", "stored"),
    [
        ("story.txt", "story.txt"),
        ("My Story (1).TXT", "My_Story_1.TXT"),
        ("Crème brûlée.jpg", "Creme_brulee.jpg"),
        ("日本.png", "attachment.png"),
        ("Ἀχιλλεύς", "attachment"),
        (".profile", "profile"),
        ("...", "attachment"),
        ("..txt", "txt"),
        ("a/../b.txt", "a..b.txt"),
        ("a\\b\0.txt", "ab.txt"),
        ("-rf.txt", "rf.txt"),
        ("..txt", "txt"),
        ("CON.txt", "_CON.txt"),
        ("lpt1", "_lpt1"),
        ("console.txt", "console.txt"),
        ("photo.", "photo"),
        ("50%?#&.jpg", "50.jpg"),
    ],
)
def test_a_key_is_safe_and_keeps_the_extension(filename, stored):
    assert make_key(filename, "", randomize=False) == stored


def test_a_key_has_at_most_255_bytes():
    name = make_key("x" * 5000 + ".jpeg", "", randomize=False)
    assert len(name) == 255
    assert name.endswith(".jpeg")
    numbered = [name for name, _ in zip(candidate_keys(name), range(1000), strict=False)]
    assert {len(name) for name in numbered} == {255}
    assert len(set(numbered)) == 1000
    assert all(name.endswith(".jpeg") for name in numbered)


@pytest.mark.parametrize("in_order", [4, 1000])
def test_numbers_are_consecutive_first_and_then_random_and_longer(in_order):
    names = [
        n for n, _ in zip(candidate_keys("a/b.tar.gz", in_order), range(in_order + 9), strict=False)
    ]
    assert names[: in_order + 1] == [
        "a/b.tar.gz",
        *(f"a/b-{number}.tar.gz" for number in range(1, in_order + 1)),
    ]
    lengths = [len(re.fullmatch(r"a/b-(\d+)\.tar\.gz", name)[1]) for name in names[in_order + 1 :]]
    shortest = len(str(in_order)) + 1
    assert lengths == list(range(shortest, shortest + 8))


def test_a_long_extension_is_cut():
    assert len(make_key("x." + "y" * 5000, "", randomize=False)) < 255


def test_a_random_key_has_the_extension_in_lower_case():
    uuid4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    first = make_key("Photo.JPG", "a/b", randomize=True)
    assert re.fullmatch(rf"a/b/{uuid4}\.jpg", first)
    assert first != make_key("Photo.JPG", "a/b", randomize=True)


def test_a_long_record_id_does_not_displace_the_random_name():
    pattern = "{rid}-" + "x" * 43 + "{filename}"
    name = make_key("a." + "y" * 80, "", True, pattern, "r" * 500, ".gz")
    assert re.search(r"x[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.y+\.gz$", name)
    assert len(name) <= 255
