"""ComprExIT (arXiv 2602.03784): frozen states of all layers, mixed by depth and carried into slots by width."""
