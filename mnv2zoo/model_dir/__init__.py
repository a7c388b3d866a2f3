"""The folder format that runs, packages and converted models share."""
