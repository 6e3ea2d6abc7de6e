"""Search: an Optuna study over the ranges of a run."""
