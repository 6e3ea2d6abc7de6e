"""Endpoints of the server, with a file for each group."""
