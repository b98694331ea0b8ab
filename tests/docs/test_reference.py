"""The references of the command lines, compared with their tables and their usage."""

import re

import pytest

from kinto_attachment.commands import main as command
from kinto_attachment.commands.problems import KINDS
from kinto_attachment.console import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOT_ALLOWED, EXIT_USAGE
from kinto_attachment.scripts import download, upload
from kinto_attachment.storage.gcs.storage import GCSStorage
from kinto_attachment.storage.local import LocalStorage
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.documentation import table


COMMAND = "docs/reference/command"
SCRIPTS = "docs/reference/scripts"


def options_in(text):
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*|(?<![\w-])-[A-Z](?!\w)", text))


def print_usage(main, *arguments):
    """Print the usage of a command line."""
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])


def test_every_finding_is_in_the_table_with_its_meaning_severity_repair_and_next_command():
    assert table(COMMAND, "Finding") == [
        [
            f"``{kind.name}``",
            kind.meaning,
            kind.severity,
            kind.repair or "(none)",
            f"``{kind.command}``" if kind.command else "(none)",
        ]
        for kind in KINDS.values()
    ]


def test_every_option_of_the_command_is_in_the_table(capsys):
    documented = {
        (option, subcommand)
        for options, subcommands, _ in table(COMMAND, "Option")
        for option in options_in(options)
        for subcommand in command.SUBCOMMANDS
        if subcommands == "all" or f"``{subcommand}``" in subcommands
    }
    offered = set()
    for subcommand in command.SUBCOMMANDS:
        print_usage(command.main, subcommand)
        printed = capsys.readouterr().out.split("[-h]", 1)[1].split("\n\n")[0]
        offered |= {(option, subcommand) for option in options_in(printed)} | {
            ("--help", subcommand)
        }
    assert documented == offered


def test_every_subcommand_is_in_the_table():
    assert [name for name, _ in table(COMMAND, "Subcommand")] == [
        f"``{name}``" for name in command.SUBCOMMANDS
    ]


@pytest.mark.parametrize(("script", "number"), [(upload, 1), (download, 2)])
def test_every_option_of_the_scripts_is_in_the_tables(capsys, script, number):
    print_usage(script.main)
    offered = options_in(capsys.readouterr().out.split("\noptions:\n", 1)[1])
    rows = table(SCRIPTS, "Option", 0) + table(SCRIPTS, "Option", number)
    documented = options_in(" ".join(name for name, _ in rows))
    assert documented == offered


def test_the_exit_codes_are_in_the_tables():
    codes = [0, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_ALLOWED, EXIT_INTERRUPTED]
    assert [int(code) for code, _ in table(SCRIPTS, "Code")] == codes
    codes.remove(EXIT_NOT_ALLOWED)
    assert [int(code) for code, _ in table(COMMAND, "Code")] == codes


def test_the_metrics_of_the_storages_are_named_after_them():
    kinds = (LocalStorage, S3Storage, GCSStorage)
    names = [f"``kinto_backend_{kind.__name__.lower()}_seconds``" for kind in kinds]
    assert [now for _, now in table("docs/how-to/upgrade", "Earlier", 1)][: len(names)] == names
    (row,) = [name for name, _ in table("docs/reference/metrics", "Name") if "backend" in name]
    assert re.findall(r"``kinto_\w+``", row) == names
