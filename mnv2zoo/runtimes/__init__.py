"""Runs models without PyTorch and timm."""
