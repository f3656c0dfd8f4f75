"""What is drawn of a moment: boxes of voxels, their colours, and what lies over them."""
