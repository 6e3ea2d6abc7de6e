"""Rows of a source to shards: read, downloaded, cleaned, compared, set aside, written."""
