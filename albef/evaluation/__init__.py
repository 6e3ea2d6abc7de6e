"""Evaluation of a run: baselines, statistics, behavior tests."""
