"""Lines between a client and a real server that break, below HTTP."""

import contextlib
import socket
import struct
import threading
from urllib.parse import urlsplit


class Line:
    """A line to a server.

    :ivar url: the root of the server's API, through this line.
    :ivar passed: how many bytes clients have sent through it.
    """

    def __init__(self, url):
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._changed = threading.Condition()
        self._sockets = set()
        self._limit = None
        self._cuts = 0
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{parts.path}"
        self._accept_in_background()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.cut()

    def hold_after(self, more):
        """Hold the connection that will send a byte after so many more of them all."""
        with self._changed:
            self._limit = self.passed + more

    def wait_until_held(self, seconds=30):
        """Wait until that connection is held. The others are not."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._limit is None, seconds)

    def cut(self):
        """End all connections, and accept no others."""
        with self._changed:
            # A thread that waits for a connection keeps the socket open otherwise.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for connection in self._sockets:
                _reset(connection)
            self._sockets.clear()
            self._cuts += 1
            self._changed.notify_all()

    def mend(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept_in_background()

    def _accept_in_background(self):
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                with self._changed:
                    self._sockets |= {client, server}
                self._pump_in_background(client, server, self._note)
                self._pump_in_background(server, client, lambda size: None)

    def _pump_in_background(self, *args):
        threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(self, source, target, note):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                note(len(data))
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _note(self, size):
        with self._changed:
            self.passed += size
            if self._limit is not None and self.passed >= self._limit:
                self._limit = None
                self._changed.notify_all()
                cuts = self._cuts
                self._changed.wait_for(lambda: self._cuts > cuts)


def _reset(connection):
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
