"""The training loss: cross-entropy of scores that are smaller than the image."""
