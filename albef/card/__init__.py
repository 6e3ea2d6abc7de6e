"""The model card of a run, a page of Markdown."""
