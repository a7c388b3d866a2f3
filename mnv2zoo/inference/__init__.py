"""Turns images into rows of predictions."""
