"""What is drawn of a moment: faces of voxels, their colours, and what lies over them."""
