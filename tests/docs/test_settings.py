"""The reference of the settings, compared with the table of options."""

import configparser
import re

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid_storage.extensions import GROUPS

from kinto_attachment.settings.options import OPTIONS
from kinto_attachment.settings.read import STORAGES, read_settings
from tests.support.documentation import NAMES, blocks, page, table


REFERENCE = "docs/reference/settings"


def test_every_option_is_in_the_table_with_its_default_and_scope():
    documented = {name: [default, scope] for name, default, scope, _ in table(REFERENCE, "Name")}
    assert documented == {
        f"``{name}``": [
            f"``{option.default}``" if option.default else "(empty)",
            "collection" if option.per_collection else "server",
        ]
        for name, option in OPTIONS.items()
    }


def test_all_groups_of_extensions_are_listed():
    listed = page(REFERENCE).split("\nGroups of extensions\n", 1)[1]
    groups = dict(re.findall(r"- ``(\w+)``: (.+)", listed))
    assert groups.keys() == GROUPS.keys()
    for name in GROUPS.keys() - {"default", "any"}:
        assert tuple(groups[name].split(", ")) == GROUPS[name]


@pytest.mark.parametrize("number", range(4))
def test_the_upgrade_says_of_an_earlier_name_what_the_server_says(number):
    earlier, now = table("docs/how-to/upgrade", "Earlier")[number]
    settings = {"attachment.base_path": "/srv", f"attachment.{earlier.strip('`')}": "1"}
    with pytest.raises(ConfigurationError) as refusal:
        read_settings(settings)
    instead = re.match(r"``(\S+)``|Remove it", now)
    expected = f"kinto.attachment.{instead[1]}" if instead[1] else "remove it"
    assert expected in str(refusal.value)


PRINTED = [ini for name in NAMES for ini in blocks(name, "ini") if "kinto.attachment." in ini]


@pytest.mark.parametrize("ini", PRINTED)
def test_every_printed_settings_file_is_accepted(ini):
    parser = configparser.RawConfigParser()
    parser.read_string(ini if ini.startswith("[") else f"[app:main]\n{ini}")
    settings = dict(parser["app:main"])
    if not any(f"kinto.attachment.{name}" in settings for name in STORAGES):
        settings["kinto.attachment.base_path"] = "/srv/kinto/files"
    # Each Kinto has one.
    settings.setdefault("kinto.userid_hmac_secret", "of the other settings")
    plain = {name.removeprefix("kinto."): value for name, value in settings.items()}
    values = read_settings(settings | plain)
    assert any(getattr(values, name, None) for name in ("base_path", "aws", "gcloud", "backend"))


def test_settings_files_are_printed():
    assert len(PRINTED) >= 5
