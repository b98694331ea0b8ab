"""The helper scripts. They need kinto-http, and nothing of the server that the plugin is for."""
