"""Foreign data formats, one file each, read into `Recording`s."""
