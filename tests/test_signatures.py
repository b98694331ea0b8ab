"""Signatures of links, and for how long they are valid."""

from hypothesis import given
from hypothesis import strategies as st

from kinto_attachment import signatures


SECRET = "for the tests"
NOW = 1_800_000_000.5
END = 1_800_000_300


def test_a_link_is_valid_until_it_ends():
    signature = signatures.sign(SECRET, "a/b.txt", END)
    assert signatures.is_valid(SECRET, "a/b.txt", str(END), signature, NOW)
    assert signatures.is_valid(SECRET, "a/b.txt", str(END), signature, END - 0.1)
    assert not signatures.is_valid(SECRET, "a/b.txt", str(END), signature, END)


def test_a_signature_is_of_one_file_one_end_and_one_secret():
    signature = signatures.sign(SECRET, "a/b.txt", END)
    for secret, key, end, sent in (
        ("another", "a/b.txt", END, signature),
        (SECRET, "a/c.txt", END, signature),
        (SECRET, "a/b.txt", END + 1, signature),
        (SECRET, "a/b.txt", f"0{END}x", signature),
        (SECRET, "a/b.txt", END, signature[:-1]),
        (SECRET, "a/b.txt", END, signature.upper()),
        (SECRET, "a/b.txt", END, "ü"),
        (SECRET, "a/b.txt", END, ""),
        (SECRET, "a/b.txt", "", signature),
        (SECRET, "a/b.txt", "-1", signature),
        (SECRET, "a/b.txt", "\u0661", signature),
        (SECRET, "a/b.txt", "9" * 5000, signature),
    ):
        assert not signatures.is_valid(secret, key, str(end), sent, NOW)


def test_where_a_key_ends_and_an_end_begins_cannot_be_moved():
    assert signatures.sign(SECRET, "1\na", 5) != signatures.sign(SECRET, "a", 51)


@given(st.integers(10**9, 10**10), st.integers(1, 3600), st.integers(0, 3600))
def test_a_link_is_valid_for_as_long_as_asked_and_never_longer_than_allowed(now, seconds, more):
    since, end = signatures.period(now, seconds, seconds + more)
    assert since <= now
    assert now + seconds <= end <= now + seconds + more
    assert end - since <= 2 * seconds


def test_one_link_comes_back_for_a_while():
    ends = [signatures.period(NOW + second, 300, 3600)[1] for second in range(600)]
    assert len(set(ends)) in (4, 5)
    assert len({signatures.period(NOW + s, 3600, 3600)[1] for s in range(10)}) == 10
