"""Commands that run from a checkout."""
