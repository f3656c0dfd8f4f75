"""What is seen: crops of the town, visibility, labels."""
