"""How fast the plugin is, compared with other ways to do the same: ``make bench``."""
