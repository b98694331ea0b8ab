"""The command ``kinto-attachment``: looks after the files of a server, beside it.

The server imports nothing of it.
"""
