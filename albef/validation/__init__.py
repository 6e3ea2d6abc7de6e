"""Validation of datasets before training: suites of expectations, profiles and drift."""
