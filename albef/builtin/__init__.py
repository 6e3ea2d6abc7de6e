"""The built-in data: OpenMoji artwork in scenes, and five views of them."""
