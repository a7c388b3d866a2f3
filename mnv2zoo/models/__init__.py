"""The models: their layers, their names, and how they are registered and loaded."""
