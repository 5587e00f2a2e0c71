"""A stage: the module of the user, forward and backward, in one piece or two."""
