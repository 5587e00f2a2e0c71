"""Loss scaling for float16, with one decision for all ranks. In comes an executor, whose stages
scale their losses from then on; out come gradients of their true size, steps of optimizers that are
taken on every rank or on none, and a scale that is the same everywhere."""

from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from stretto.runtime.coordination.failure import post_failure
from stretto.runtime.errors import PipelineError, words_of
from stretto.runtime.executor import Executor


class LossScale(NamedTuple):
    """By how much losses are scaled, and how that changes: torch's numbers, and the steps since it
    last did (`tracker`)."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    tracker: int

    def after(self, found: bool) -> "LossScale":
        """The one after a step; `found`: a gradient was not finite."""
        if found:
            return self._replace(scale=_rounded(self.scale * self.backoff_factor), tracker=0)
        if self.tracker + 1 < self.growth_interval:
            return self._replace(tracker=self.tracker + 1)
        grown = _rounded(self.scale * self.growth_factor)
        return self._replace(scale=self.scale if grown == float("inf") else grown, tracker=0)


STATE = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
"""What torch calls the fields of a `LossScale` in a state."""


def _rounded(scale: float) -> float:
    """As float32, which is what torch keeps."""
    return torch.tensor(scale, dtype=torch.float32).item()


class GradScaler:
    """`torch.amp.GradScaler` for an executor: called the same way, but that the executor scales the
    losses, in `step`, before their backwards begin:

        scaler = GradScaler(executor)
        executor.step(x, target=target)
        scaler.unscale_(optimizer)  # where gradients are looked at; else `step` does it
        clip_grad_norm_(executor, 1.0)
        scaler.step(optimizer)
        scaler.update()

    If one rank finds an infinity or NaN in any gradient, no optimizer of any rank takes its step,
    and the scale falls everywhere; otherwise it grows as torch's does. Every rank must call
    `update`, also one that has no optimizer. `init_scale`, `growth_factor`, `backoff_factor`,
    `growth_interval` (steps) and `enabled` are torch's, and so is `state_dict`.
    """

    def __init__(
        self,
        executor: Executor,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        if growth_factor <= 1.0 or not 0.0 < backoff_factor < 1.0:
            raise ValueError("growth_factor must be above 1, backoff_factor between 0 and 1")
        self.executor, self.enabled = executor, enabled
        self.loss_scale = LossScale(init_scale, growth_factor, backoff_factor, growth_interval, 0)
        self.found: bool | None = None  # whether a gradient is not finite; None: not agreed yet
        self.unscaled: set[int] = set()  # optimizers, by id
        executor.scaler = self if enabled else None
        self._set(self.loss_scale)

    def scale(self, loss: Any) -> NoReturn:
        """Not to be called: raises `PipelineError`, since the executor scales the losses."""
        raise PipelineError("the executor scales the losses itself: leave out `scaler.scale(…)`")

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients of this rank by the scale, once between two updates: those of all
        its stages, whichever optimizer asks first. Raises `RuntimeError` for an optimizer that
        asked before, `PipelineError` where a gradient is of float16 or another rank is gone."""
        if not self.enabled:
            return
        if id(optimizer) in self.unscaled:
            raise RuntimeError("unscale_() has been called for this optimizer since update()")
        self.unscaled.add(id(optimizer))
        self.agree()

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(*args, **kwargs)`, unless a gradient of any rank is not finite; then
        None. Unscales before, where that was not done. Raises as `unscale_`."""
        if self.enabled and "closure" in kwargs:
            raise RuntimeError("an optimizer with a closure cannot be stepped by a GradScaler")
        self.agree()
        return None if self.found else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """The next scale: `new_scale`, or smaller where a gradient was not finite, or greater after
        `growth_interval` steps without one. All ranks call it once for each of their steps."""
        if not self.enabled:
            return
        self.agree()
        if new_scale is not None:
            self._set(self.loss_scale._replace(scale=float(new_scale)))
        else:
            self._set(self.loss_scale.after(bool(self.found)))
        self.found = None
        self.unscaled.clear()

    @property
    def skipped(self) -> bool:
        """Whether the ranks have agreed, since the last `update`, not to step."""
        return bool(self.found)

    def agree(self) -> None:
        """As `LossScaler.agree`. Raises `PipelineError` where ranks have different scales, a
        gradient is of float16, or another rank is gone."""
        if not self.enabled or self.found is not None:
            return
        try:
            own = [unscale(self.executor.named_parameters(), self.get_scale()), self.get_scale()]
        except PipelineError as error:
            post_failure(self.executor.peers.store, self.executor.rank, words_of(error))
            raise
        told = self.executor.exchange.tell("GradScaler", own)
        for rank, (_, scale) in enumerate(told):
            if scale != self.get_scale():
                raise PipelineError(
                    f"rank {self.executor.rank} has the loss scale {self.get_scale():g}, but rank "
                    f"{rank} {scale:g}: every rank must call `update`, with the same settings"
                )
        self.found = any(found for found, _ in told)

    def before_step(self) -> None:
        """As `LossScaler.before_step`; raises `PipelineError` as that."""
        if self.found is not None:
            raise PipelineError(
                "the gradients were unscaled, and a step would add scaled ones to them: call "
                "`scaler.update()` before it"
            )

    def _set(self, loss_scale: LossScale) -> None:
        self.loss_scale = loss_scale
        for stage in self.executor.stages.values():
            stage.scale = self.get_scale()

    def get_scale(self) -> float:
        """The factor by which losses are multiplied; 1 where scaling is not enabled."""
        return self.loss_scale.scale if self.enabled else 1.0

    def is_enabled(self) -> bool:
        """Whether losses are scaled at all."""
        return self.enabled

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes, with torch's names; the same on all ranks."""
        if not self.enabled:
            return {}
        return dict(zip(STATE, self.loss_scale, strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, ours or that of `torch.amp.GradScaler`. Raises
        `RuntimeError` where it is that of a scaler that was not enabled."""
        if self.enabled:
            if not state_dict:
                raise RuntimeError("this state is of a GradScaler that was not enabled")
            self._set(LossScale(*(state_dict[name] for name in STATE)))


@torch.no_grad()
def unscale(parameters: Iterable[tuple[str, nn.Parameter]], scale: float) -> bool:
    """Divides the gradients of named parameters by the scale, in place; returns whether one was not
    finite. Raises `PipelineError` where one is of float16."""
    alike: dict[Any, list[Tensor]] = {}
    for name, parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.dtype == torch.float16:
            raise PipelineError(
                f"`{name}` has gradients of float16, which a GradScaler cannot unscale: keep "
                "weights in float32, and compute under `torch.autocast`"
            )
        dense = gradient._values() if gradient.is_sparse else gradient
        alike.setdefault((type(dense), dense.device, dense.dtype), []).append(dense)
    inverse = torch.tensor(scale, dtype=torch.float64).reciprocal().float()
    found = False
    for (_, device, _), gradients in alike.items():
        flag = torch.zeros(1, device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, flag, inverse.to(device))  # pyright: ignore[reportPrivateImportUsage]
        found = found or bool(flag.item())
    return found
