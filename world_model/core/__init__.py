"""The base of all rooms: grid, geometry, errors, files, devices."""
