"""Finds and reads images, in the same way for every command."""
