"""Comparison with the published model, stage by stage, on stored numbers ("golden" files).

A folder of golden files holds two state dicts (``tok_sd.npz``, ``world_sd.npz``), runs of the tokenizer (``tok_*.npz``)
and of the forecaster (``world_*.npz``), and reference values of losses, metrics and pose arithmetic. Every size is read
off the arrays. `python -m world_model.verify_golden` prints the comparison; the tests run the same code.
"""

from world_model.evaluation.parity.folder import verify_folder
from world_model.evaluation.parity.report import Measurement, Report

__all__ = ["Measurement", "Report", "verify_folder"]
