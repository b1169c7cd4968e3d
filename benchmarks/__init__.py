"""Speed and memory of latentpress: ratios between two things measured side by side, each beside its floor."""
