"""Named events: one road user that does what logs hold once in a thousand scenes, on the way of the ego."""

from world_model.worlds.events.courses import EVENTS
from world_model.worlds.events.fitting import actors_of, check_event

__all__ = ["EVENTS", "actors_of", "check_event"]
