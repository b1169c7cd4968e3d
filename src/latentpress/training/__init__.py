"""Training of presses."""
