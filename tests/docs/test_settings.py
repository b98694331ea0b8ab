"""The reference of the settings, compared with the table of options."""

import re

from pyramid_storage.extensions import GROUPS

from kinto_attachment.settings.options import OPTIONS, PER_COLLECTION
from tests.support.documentation import page


def settings_table():
    """Return ``{name: (default, scope)}`` of the table of the reference."""
    table = page("docs/reference/settings").split("A server has exactly one of", 1)[0]
    rows = re.findall(r"   \* - (.+)\n     - (.+)\n     - (.+)\n", table)
    return {
        name.strip("`"): (default, scope)
        for names, default, scope in rows[1:]
        for name in names.split(", ")
    }


def test_all_settings_are_in_the_table_with_their_defaults_and_scopes():
    table = settings_table()
    assert table.keys() == OPTIONS.keys()
    for name, (default, scope) in table.items():
        assert scope == ("collection" if name in PER_COLLECTION else "server"), name
        printed = re.search(f"^(?:``{re.escape(name)}``: )?``([^`]+)``$", default)
        if printed:
            assert OPTIONS[name].default == printed[1], name
        else:
            assert OPTIONS[name].default == "", name


def test_all_groups_of_extensions_are_listed():
    listed = page("docs/reference/settings").split("\nGroups of extensions\n", 1)[1]
    groups = dict(re.findall(r"- ``(\w+)``: (.+)", listed))
    assert groups.keys() == GROUPS.keys()
    for name in GROUPS.keys() - {"default", "any"}:
        assert tuple(groups[name].split(", ")) == GROUPS[name]
