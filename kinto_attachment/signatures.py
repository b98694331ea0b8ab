"""Signatures of links to stored files, which end."""

import hashlib
import hmac


def sign(secret: str, key: str, expires: int) -> str:
    """Return the signature of a link, in hexadecimal.

    :param expires: when it ends, in seconds since 1970.
    """
    # The purpose first: the secret may also be used for something else.
    message = f"kinto-attachment link\n{expires}\n{key}"
    return hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()


def is_valid(secret: str, key: str, expires: str, signature: str, now: float) -> bool:
    """Return whether a link was signed with the secret, and has not ended.

    :param expires: as the link has it, like the signature.
    """
    if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
        return False
    expected = sign(secret, key, int(expires))
    # In constant time, so that a signature cannot be guessed bit by bit.
    return hmac.compare_digest(expected.encode(), signature.encode()) and now < int(expires)


def period(now: float, seconds: int, max_seconds: int) -> tuple[int, int]:
    """Return from when to when a link is valid, in seconds since 1970: for so long at least.

    Both are the same for a while, so that caches know the URL again: up to half of that time, if
    the link ends within ``max_seconds`` all the same.
    """
    window = max(1, min(seconds // 2, max_seconds - seconds))
    end = -(-(int(now) + seconds) // window) * window
    return end - seconds - window, end
