"""Behavior tests: the required effect of a change of words on a model's decision about an image."""
