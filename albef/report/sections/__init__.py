"""Sections of the report: each reads its products and draws what its template shows."""
