"""The recipe for a machine with a GPU and nothing else: what travels there, what runs there, what comes back."""
