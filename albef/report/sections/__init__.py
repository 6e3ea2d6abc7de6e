"""Sections of the report: each reads its artifacts and prepares the data of its template."""
