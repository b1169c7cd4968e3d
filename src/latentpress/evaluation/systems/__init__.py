"""Systems that are compared: presses, bounds and peers, by name."""
