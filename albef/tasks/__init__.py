"""Kinds of task: a file each, with a `Config` and a `Task`."""
