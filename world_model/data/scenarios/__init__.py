"""Recorded scenarios: traffic and maps."""
