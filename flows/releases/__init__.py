"""An export on its way to production, and back."""
