"""The chain from a product back to the raw source, read from products and run records; no torch."""
