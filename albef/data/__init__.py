"""Datasets on disk: records, shards, store and cache, image decoding and image quality."""
