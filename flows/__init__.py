"""Prefect flows that run, schedule and trigger the pipeline. They contain no machine learning."""
