"""Generated drives: which way to go, and what is written of them."""
