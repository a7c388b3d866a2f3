"""From images to rows of predictions."""
