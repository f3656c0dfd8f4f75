"""What is wanted of the ego: rewards, episode ends, forecast trust."""
