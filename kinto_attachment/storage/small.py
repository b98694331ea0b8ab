"""Small files: kept in memory until they are published."""

from collections.abc import Callable

from kinto_attachment.storage.contract import StagedFile


MAX_SMALL_BYTES = 64 * 1024


class SmallFile(StagedFile):
    """A staged file that is in memory as long as it is small.

    :param stage: returns the staged file that it becomes when it grows.
    :param create: makes a stored file of a content, and returns its key, or ``None`` if only a
        staged file can become one.
    """

    def __init__(self, stage: Callable[[], StagedFile], create: Callable[[bytes], str | None]):
        self._stage = stage
        self._create = create
        self._content = b""
        self._staged: StagedFile | None = None

    def write(self, chunk: bytes) -> None:
        if self._staged is None and len(self._content) + len(chunk) <= MAX_SMALL_BYTES:
            self._content += chunk
        else:
            self._grown().write(chunk)

    def publish(self) -> str:
        key = self._create(self._content) if self._staged is None else None
        return self._grown().publish() if key is None else key

    def discard(self) -> None:
        if self._staged is not None:
            self._staged.discard()

    def _grown(self) -> StagedFile:
        if self._staged is None:
            self._staged = self._stage()
            self._staged.write(self._content)
            self._content = b""
        return self._staged
