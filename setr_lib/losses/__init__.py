"""The training loss: cross-entropy of logits that are smaller than the image, and other kinds."""
