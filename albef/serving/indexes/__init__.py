"""Image indexes, on disk or in memory, and the gallery folder that one of them follows."""
