"""Learners of policies, and what is written down while they learn."""
