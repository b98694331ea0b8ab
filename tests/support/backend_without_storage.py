"""A module that registers no storage."""


def includeme(config):
    pass
