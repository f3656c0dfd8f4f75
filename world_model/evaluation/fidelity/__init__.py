"""Counterfactual fidelity: does a world answer actions that no log holds as the ground truth does?"""
