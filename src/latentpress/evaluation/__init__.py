"""Scores of predicted answers, and the ratios and intervals that go beside them."""
