"""Experiments that vary the values of params.yaml, and their comparison."""
