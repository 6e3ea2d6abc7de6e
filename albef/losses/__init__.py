"""Losses: tensors in, a tensor out."""
