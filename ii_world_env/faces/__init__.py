"""What the single, the vector and the SB3 environment share."""
