"""Commands that use a finished model."""
