"""Fitting forecast trust on held-out drives, and how well it ranks."""
