"""Release of an export to production, and the way back."""
