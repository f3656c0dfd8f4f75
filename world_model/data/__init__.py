"""From files on disk to batches: index, labels, clips, tokens."""
