"""One module per stage, run as ``python -m pipelines.NAME``: files in, files out."""
