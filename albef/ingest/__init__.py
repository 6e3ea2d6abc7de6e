"""Rows of a source to shards: read, downloaded, cleaned, compared, rejected or written."""
