"""A drive in one or several worlds, without any page: moments, drivers, sessions, files."""
