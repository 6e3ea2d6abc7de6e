"""Prefect: when, where and how often. It knows stage names and no machine learning."""
