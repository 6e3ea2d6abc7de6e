"""The model: encoders, fusion, momentum model, queue, checkpoints."""
