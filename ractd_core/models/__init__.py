"""Networks: the temporal U-Net of teacher and student, and the reward model."""
