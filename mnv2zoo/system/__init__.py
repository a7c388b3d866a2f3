"""Files and folders that are written whole, and what depends on the operating system."""
