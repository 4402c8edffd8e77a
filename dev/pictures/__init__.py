"""`make pictures`: the pictures and the animation of the documentation, taken from a running system."""
