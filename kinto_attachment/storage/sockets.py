"""The sockets to remote storages, where timeouts limit silence, not the duration of a transfer."""

import socket


BLOCK_BYTES = 32 * 1024
"""What is written to the socket at once: the timeout applies to each of these blocks."""

SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]
if hasattr(socket, "TCP_NOTSENT_LOWAT"):
    # Otherwise the kernel buffers megabytes at once, and then accepts nothing until a slow line has
    # sent a third of them. Bytes in flight, and thus the speed, are not limited by it.
    SOCKET_OPTIONS.append((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, BLOCK_BYTES))
