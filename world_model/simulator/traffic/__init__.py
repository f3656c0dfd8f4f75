"""What moves: vehicles, pedestrians, and the ego driver."""
