"""Requests and responses that Cornice and Kinto would take for something else."""

from pyramid.httpexceptions import HTTPNoContent
from pyramid.response import Response


class MediaType(str):
    """A media type that is equal to others without regard to case (RFC 9110, section 8.3.1).

    Cornice compares by ``in``. (It also takes a function, of which it makes a ``custom_predicate``,
    which Pyramid no longer has.)
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.casefold() == other.casefold()

    __hash__ = str.__hash__


class NoContent(HTTPNoContent):
    """An empty response, which in a batch is shown as an empty object.

    (``build_response`` in ``kinto.core.utils`` cannot show bytes that are not JSON.)
    """

    json: dict[str, object] = {}


class StreamedResponse(Response):
    """A response whose body is never in memory as a whole.

    Kinto's metrics read the body of every response for its length (``setup_metrics`` in
    ``kinto.core.initialization``): they find this one empty.
    """

    @property
    def body(self) -> bytes:
        return b""
