"""The student: model, losses, training."""
