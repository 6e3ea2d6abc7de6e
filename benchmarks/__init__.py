"""Speed and memory, measured: `make bench`. Two ways are always timed in turns, in one run."""
