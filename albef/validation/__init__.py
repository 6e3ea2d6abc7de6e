"""Whether a data set is fit to train on: suites of expectations, its profile, and drift."""
