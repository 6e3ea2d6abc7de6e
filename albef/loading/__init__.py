"""Batches of training: records in an order fixed by seed and epoch, decoded ahead."""
