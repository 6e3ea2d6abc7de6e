"""Kinds of task: one file each, with a `Config` and a `Task`."""
