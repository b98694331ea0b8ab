"""How fast the plugin is, beside other ways to do the same: ``make bench``."""
