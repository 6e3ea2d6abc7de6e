"""Built-in data: OpenMoji artwork in scenes, as five kinds of records."""
