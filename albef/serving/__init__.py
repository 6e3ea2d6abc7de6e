"""Exported models over HTTP; no torch."""
