"""The environment variables that settings can be given in."""

import os
import re
from collections.abc import Iterable

from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings.options import OPTIONS, refuse_unknown


HOST = "_SERVICE_HOST"


def variable(name: str) -> str:
    """Return the variable for a setting (``kinto.core.utils.read_env``)."""
    return re.sub(r"[.-]", "_", name).upper()


def refuse_unknown_variables(names: Iterable[str], prefix: str) -> None:
    """Refuse variables that look like settings and would have no effect.

    :param names: of the plugin's settings in the file, without prefix.
    :raises ConfigurationError: there is one.
    """
    known = [variable(prefix + name) for name in [*OPTIONS, *names]]
    for found in sorted(os.environ):
        is_ours = found.upper().startswith(variable(prefix)) and not _is_of_service(found)
        if not is_ours or found in known:
            continue
        if found.upper().startswith(variable(f"{prefix}resources.")):
            raise ConfigurationError(
                f"{found} (in the environment) is not in the file: of the settings of buckets and"
                " collections, only those in the file can be set in the environment"
            )
        refuse_unknown(found, known, where=" (in the environment)")


def _is_of_service(found: str) -> bool:
    """Return whether a variable is one of those that Kubernetes sets for a service.

    (``{SERVICE}_SERVICE_HOST``, and ``{SERVICE}_SERVICE_PORT…`` and ``{SERVICE}_PORT…`` beside it.)
    """
    services = [name.removesuffix(HOST) for name in os.environ if name.endswith(HOST)]
    return any(found.startswith((f"{name}_SERVICE_", f"{name}_PORT")) for name in services)
