"""Training: the loop, its optimizer and schedule, training checkpoints and curves."""
