"""tus 1.0.0: each requirement of the protocol's text is a test, and its name says what is required.

The text is protocol.md of https://github.com/tus/tus-resumable-upload-protocol. The tests see a
server from outside only, through a :class:`tests.tus.target.Target`: it is this plugin, or, with
``make tus-oracles``, other servers of tus. What these do otherwise is listed in
:mod:`tests.tus.oracles`, and has to stay so.
"""
