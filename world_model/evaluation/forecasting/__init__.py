"""Forecasting scores by the usual protocol, in any number of processes."""
