"""Values of training labels beside 0 and 1."""

# What lies outside of the image: label -1 until the last transform, as nnU-Net pads, so that a rotated lesion at the
# border is not averaged with background that nobody has seen.
OUTSIDE = -1
