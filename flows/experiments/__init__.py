"""Variations of the values, side by side."""
