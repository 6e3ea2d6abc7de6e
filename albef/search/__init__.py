"""An Optuna study over the ranges of a run."""
