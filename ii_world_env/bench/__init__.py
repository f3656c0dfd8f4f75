"""Timing: ``python -m ii_world_env.bench``."""
