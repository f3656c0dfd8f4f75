"""What stands: streets, paths, buildings, trees."""
