"""Ways for a message to travel: gloo, NCCL, in one process."""
