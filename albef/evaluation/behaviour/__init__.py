"""Behaviour tests: what a change of the words must do to what a model says of picture and text."""
