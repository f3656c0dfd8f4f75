"""Counterfactual fidelity: does a world answer actions that nobody logged as the ground truth does?"""
