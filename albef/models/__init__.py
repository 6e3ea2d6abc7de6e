"""The model: encoders, fusion, momentum twin, queues, checkpoints."""
