"""Prefect flows that run, schedule and trigger the pipeline. They contain no machine learning."""

from albef.io import relax_collector

relax_collector()
