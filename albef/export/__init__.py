"""Export of a trained model to the folder that goes to production, verified against torch."""
