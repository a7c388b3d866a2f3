"""What runs a network without PyTorch and timm."""
