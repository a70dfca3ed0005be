"""What the world does to long runs, done on purpose."""
