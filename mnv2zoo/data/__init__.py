"""Images: finding them, and reading them the same way for every command."""
