"""Metrics: pure functions of tables of predictions, a file per family of kinds."""
