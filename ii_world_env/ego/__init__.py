"""The ego vehicle: action modes, footprint, sensor noise."""
