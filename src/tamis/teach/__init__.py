"""What the teacher says, and how good it is."""
