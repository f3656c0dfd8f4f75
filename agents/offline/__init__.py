"""Drives of planners as data for offline learners."""
