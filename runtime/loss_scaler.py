"""What an executor and clipping ask of whoever scales the losses: see `scaler`."""

from typing import Protocol


class LossScaler(Protocol):
    """Scales the losses of an executor's stages."""

    def get_scale(self) -> float:
        """The factor by which losses are multiplied."""
        ...

    def before_step(self) -> None:
        """Called before a training step. Raises `PipelineError` where the gradients so far are not
        scaled as those of the step will be."""
        ...

    def agree(self) -> None:
        """Brings this rank's gradients to their true size, once between two updates, and the ranks
        to one mind about whether they are finite. All ranks call it."""
        ...
