"""A sweep in TensorBoard, MLflow or Weights & Biases, brought there by a follower."""
