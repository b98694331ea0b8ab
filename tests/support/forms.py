"""Forms: their bodies, and how they are read without a server."""

import io

from kinto_attachment.form.form import read_form as read_form_from


BOUNDARY = "------------------------d74496d66958873e"


def part(name, content, filename=None, content_type=None):
    """Return one part of a multipart body."""
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    headers = f"Content-Disposition: {disposition}\r\n"
    if content_type is not None:
        headers += f"Content-Type: {content_type}\r\n"
    content = content.encode() if isinstance(content, str) else content
    return f"{headers}\r\n".encode() + content


def file_part(content=b"once upon a time", filename="story.txt", content_type="text/plain"):
    return part("attachment", content, filename, content_type)


def multipart(*parts, boundary=BOUNDARY):
    """Return a multipart body as bytes."""
    delimiter = f"--{boundary}".encode()
    return b"".join(delimiter + b"\r\n" + p + b"\r\n" for p in parts) + delimiter + b"--\r\n"


class Staged:
    """A staged file, in memory.

    :ivar name: the filename and the mimetype that it was staged for.
    """

    def __init__(self, *name):
        self.name = name
        self.content = b""
        self.discarded = False

    def write(self, chunk):
        assert not self.discarded, "written to after it was discarded"
        self.content += chunk

    def discard(self):
        self.discarded = True


class Pieces(io.RawIOBase):
    """A body that comes in pieces of these sizes, repeated from the start."""

    def __init__(self, body, sizes):
        self._body = io.BytesIO(body)
        self._sizes = sizes
        self._reads = 0

    def read(self, size=-1):
        piece = self._sizes[self._reads % len(self._sizes)]
        self._reads += 1
        return self._body.read(min(size, piece))


def read_form(body, sizes=(1 << 20,), boundary=BOUNDARY, length=None, **options):
    """Return the form of a body and the staged file.

    A staged file is discarded if, and only if, there is no form.

    :raises HTTPException: the form is refused.
    """
    staged = []

    def stage(*name):
        staged.append(Staged(*name))
        return staged[-1]

    settings = {"max_field_bytes": 1 << 20, "max_file_bytes": 0, "mimetype_by_extension": {}}
    content_type = f'multipart/form-data; boundary="{boundary}"'
    try:
        form = read_form_from(
            Pieces(body, sizes).read, content_type, length, stage, **settings | options
        )
    except BaseException:
        assert all(file.discarded for file in staged)
        raise
    (file,) = staged
    assert not file.discarded
    assert form.upload.staged is file
    return form, file
