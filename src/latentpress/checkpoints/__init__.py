"""Presses on disk: their configuration and their files."""
