"""One hierarchy of errors. Every message says what was found, what was expected, and what to do."""

from __future__ import annotations


class IIWorldError(Exception):
    """Base of every error raised on purpose by this project.

    Args:
        found: what was found.
        expected: what was expected instead.
        remedy: what the user can do.
    """

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        parts = [found]
        if expected:
            parts.append(f"Expected: {expected}")
        if remedy:
            parts.append(f"Remedy: {remedy}")
        super().__init__("\n  ".join(parts))


class DataError(IIWorldError, ValueError):
    """A data file, table or index is missing, damaged or inconsistent."""


class CheckpointError(IIWorldError, ValueError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class ConfigError(IIWorldError, ValueError):
    """A configuration contradicts itself."""


class ActionError(IIWorldError, ValueError):
    """An action has the wrong shape, type or range, or is not finite."""


class OptionError(IIWorldError, ValueError):
    """An unknown or malformed option was given."""


class KeywordError(OptionError, TypeError):
    """An unknown keyword of a constructor; also a `TypeError`, as Python raises, which clients catch."""


class OutputError(IIWorldError, OSError):
    """A result could not be written."""
