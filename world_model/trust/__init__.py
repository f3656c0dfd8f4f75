"""How far a forecast can be trusted: raw figures of a state, calibrated on held-out drives to a number in [0, 1]."""

from world_model.trust.calibration import Calibration, Trust
from world_model.trust.figures import figures_for
from world_model.trust.stored import calibrated_trust, kind_of, members_of, trust_path

__all__ = ["Calibration", "Trust", "calibrated_trust", "figures_for", "kind_of", "members_of", "trust_path"]
