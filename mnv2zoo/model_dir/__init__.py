"""The folder that a run, a package and a converted file share."""
