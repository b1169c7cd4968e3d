"""Prompts that hold latents, and answers generated from them."""
