"""The report: a page that needs nothing else, made of plain values."""
