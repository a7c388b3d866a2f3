"""Scripts that bundles carry as `predict.py`, one for each task, and what they share.

An export replaces their imports from this package by the text of the modules.
"""
