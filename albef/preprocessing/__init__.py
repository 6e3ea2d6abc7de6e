"""What a model is fed, in training and in production: token ids and arrays of pixels. No torch."""
