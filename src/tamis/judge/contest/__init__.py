"""Many models on the same rows: variants of a student over several seeds, their teacher and the baselines."""
