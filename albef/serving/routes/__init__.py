"""The endpoints of the server, a file for each group."""
