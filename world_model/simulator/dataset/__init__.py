"""What is written: nuScenes tables, labels, the calibration report."""
