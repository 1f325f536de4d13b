"""What leaves the house: bundles."""
