"""Runtimes, which run a model without PyTorch and timm."""
