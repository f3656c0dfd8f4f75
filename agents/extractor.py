"""Where policies of earlier versions look for their features extractor."""

from ii_world_env.observations.extractor import ClassMapExtractor

__all__ = ["ClassMapExtractor"]
