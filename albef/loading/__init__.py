"""Batches of training: records in an order that seed and epoch decide, decoded ahead."""
