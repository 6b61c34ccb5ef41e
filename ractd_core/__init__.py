"""The algorithm: tasks, data, models, losses, training, policies and their evaluation."""
