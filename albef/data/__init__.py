"""Data: records, sources, shards, text and pictures, batches, quality."""
