"""What a network learns to do on images: the recipe of its training, where its weights start, and each task's own part."""
