"""Indexes of pictures, on the disk or in memory, and the folder that one of them follows."""
