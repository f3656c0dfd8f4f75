"""The state of a batch of environments, and what one step was like."""
