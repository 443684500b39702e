"""MLX in this process."""
