"""How good the models are: metrics, baselines, protocols, reports."""
