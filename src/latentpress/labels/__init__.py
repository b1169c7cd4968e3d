"""Density labels: how hard texts may be compressed, from a teacher's summaries, from surprisals or from a press."""
