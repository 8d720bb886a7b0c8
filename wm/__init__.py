"""wm: train, distil and play video and world models."""
