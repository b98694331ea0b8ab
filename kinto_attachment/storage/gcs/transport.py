"""The transport of requests to GCS: silence is limited, the duration of a transfer is not."""

from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from kinto_attachment.storage.sockets import BLOCK_BYTES, SOCKET_OPTIONS


MAX_CONNECTIONS = 256
"""More than a worker has threads. Unused connections cost nothing."""


class BlockAdapter(HTTPAdapter):
    """Sends bodies block by block: the timeout of requests is for all that is sent at once."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=MAX_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=SOCKET_OPTIONS, **kwargs)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        if isinstance(request.body, (bytes, bytearray)):
            request.body = Blocks(request.body)  # type: ignore[assignment]
        return super().send(request, *args, **kwargs)


class Blocks:
    """A body in blocks. They are copies: a buffer that is referred to cannot change its size."""

    def __init__(self, content: bytes | bytearray):
        self._content = content

    def __iter__(self) -> Iterator[bytes | bytearray]:
        for start in range(0, len(self._content), BLOCK_BYTES):
            yield self._content[start : start + BLOCK_BYTES]
