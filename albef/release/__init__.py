"""Whether an export may go to production: measured beside the released one, judged, described."""
