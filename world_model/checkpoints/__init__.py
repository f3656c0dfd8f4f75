"""Trained models on disk: save, load, import the published ones."""
