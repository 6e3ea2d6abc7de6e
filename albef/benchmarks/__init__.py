"""Public benchmarks with the protocols of their authors: a file for each family."""
