"""Files that are written completely or not at all, and everything that depends on the operating system."""
