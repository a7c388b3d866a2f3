"""The scripts that become `predict.py` in bundles, one per task, and their shared module.

An export replaces their imports from this package with the text of the modules.
"""
