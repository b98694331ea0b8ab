"""A server of tus, as the tests know it."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Target:
    """:ivar creation_url: a function that returns a URL for new uploads, another one each time.
    :ivar content: a function of that URL and an upload's; it returns what was uploaded.
    :ivar extensions: those that the server has to have.
    :ivar max_size: of an upload, in bytes.
    :ivar headers: that each request needs.
    :ivar metadata: that each upload needs, ``{key: value}``.
    :ivar expiring_url: a function like ``creation_url``, of uploads that expire after two seconds.
    """

    creation_url: Callable[[], str]
    content: Callable[[str, str], bytes]
    extensions: frozenset
    max_size: int
    headers: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    expiring_url: Callable[[], str] | None = None
