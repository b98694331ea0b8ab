"""A run of a script, from its options to its exit code."""

import argparse
import os
from collections.abc import Callable

from kinto_attachment.console import EXIT_INTERRUPTED, exit_code_of
from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.http_client import HttpClient
from kinto_attachment.scripts.report import Report


Work = Callable[[argparse.Namespace, Collection, Report], None]


def run(work: Work, args: argparse.Namespace) -> int:
    """Return the exit code of a script that does this work."""
    return exit_code_of(lambda: _run(work, args))


def _run(work: Work, args: argparse.Namespace) -> int:
    report = Report(args)
    http = HttpClient(args.jobs, args.retry, args.retry_after)
    collection = Collection(http, args.server, args.auth, args.bucket, args.collection)
    try:
        work(args, collection, report)
    except (Failure, OSError) as error:
        report.failed(None, error)
    except KeyboardInterrupt:
        http.stop()
        report.interrupted()
        # Not sys.exit(), which waits for threads that may wait for a server.
        os._exit(EXIT_INTERRUPTED)
    report.summarize()
    return report.exit_code
