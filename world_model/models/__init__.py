"""The networks: tokenizer, forecaster, geometry-first forecaster, and what they share."""
