"""Planners: scripted, IDM, and trained policies."""
