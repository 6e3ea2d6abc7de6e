"""Model inputs in training and in production: token ids and pixel arrays. No torch."""
