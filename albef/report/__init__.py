"""The report: a self-contained page made from plain values."""
