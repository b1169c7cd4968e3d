"""Training and evaluation data: contexts, their questions and summaries, read from files or the hub."""
