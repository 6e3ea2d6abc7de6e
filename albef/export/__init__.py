"""From a trained model to the folder that goes to production, and the proof that it is equal."""
