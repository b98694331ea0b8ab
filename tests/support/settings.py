"""The settings of the Kintos in the tests."""

MEMORY_BACKENDS = {
    "kinto.storage_backend": "kinto.core.storage.memory",
    "kinto.permission_backend": "kinto.core.permission.memory",
    "kinto.cache_backend": "kinto.core.cache.memory",
}


def base_settings():
    """Return the settings of a Kinto with the plugin, but for its storage of files."""
    return {
        "kinto.includes": "kinto.plugins.default_bucket kinto_attachment",
        "kinto.userid_hmac_secret": "for the tests",
        "multiauth.policies": "basicauth",
        **MEMORY_BACKENDS,
    }


def unprefixed(settings):
    """Return settings as keyword arguments of the fixture ``make_app``."""
    return {name.removeprefix("kinto."): value for name, value in settings.items()}


def prefixed(settings):
    """Return the settings that such keyword arguments of a fixture mean."""
    return {f"kinto.{name.replace('__', '.')}": value for name, value in settings.items()}
