"""Drive worlds: one batched loop for every purpose."""
