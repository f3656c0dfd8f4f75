"""What everything stands on: grid, geometry, errors, files, devices."""
