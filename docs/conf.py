"""Settings of Sphinx (``make docs``)."""

project = "kinto_attachment"
author = "The Kinto developers"
extensions = ["sphinx.ext.autosectionlabel"]
autosectionlabel_prefix_document = True
html_theme = "furo"
html_title = "Kinto attachments"
highlight_language = "none"
nitpicky = True
