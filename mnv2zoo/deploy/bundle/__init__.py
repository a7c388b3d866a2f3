"""Scripts that bundles carry as `predict.py`, one for each task, and what they share."""
