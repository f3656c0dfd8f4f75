"""What an agent sees: one object per observation mode."""
