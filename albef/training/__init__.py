"""Training: the loop, its optimizer, schedule, state on disk and curves."""
