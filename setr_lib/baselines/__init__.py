"""Other networks: the convolutional baseline, and other encoders behind the interface of ours."""
