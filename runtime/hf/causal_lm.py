"""A Hugging Face model as `stretto run` takes it: in comes a configuration, or a folder of weights;
any stage of any number of stages is built from it, and judged by the model's own loss."""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from stretto.runtime.errors import PipelineError
from stretto.runtime.hf.stages import HFStage, split

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class CausalLM:
    """`config`: a configuration of `transformers` (then the weights are random, and the same for
    the same `seed`), or what `from_pretrained` takes: the path of a folder, or a name on the hub.
    `layers`: how many layers each stage has, by default as equal as can be. `prepare(model)`, where
    it is given, is called with the whole model before it is split: to add an adapter, to freeze
    weights, to switch on checkpoints. `dtype`: that of the weights, by default the configuration's.

    A stage is cut out of the whole model, which is built in memory and let go of: where it is too
    large for that, build it on the meta device and use `split`.
    """

    def __init__(
        self,
        config: Any,
        *,
        seed: int = 0,
        layers: Sequence[int] | None = None,
        prepare: Callable[[nn.Module], nn.Module] | None = None,
        optimizer: Optimizer | None = None,
        dtype: torch.dtype | None = None,
    ):
        self.config, self.seed, self.layers, self.prepare = config, seed, layers, prepare
        self.dtype = dtype
        if optimizer is not None:
            self.optimizer = optimizer

    def whole(self) -> nn.Module:
        """The model in one piece, in training mode. Raises `PipelineError` where
        `prepare` returns no model, and what `transformers` raises."""
        auto = import_module("transformers").AutoModelForCausalLM
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            more = {} if self.dtype is None else {"dtype": self.dtype}
            if isinstance(self.config, str):
                model: nn.Module = auto.from_pretrained(self.config, **more)
            else:
                model = auto.from_config(self.config, **more)
            if self.prepare is not None:
                model = self.prepare(model)
                if not isinstance(model, nn.Module):
                    raise PipelineError("prepare(model) is to return the model")
            return model.train()

    def stage(self, index: int, count: int) -> HFStage:
        """Stage `index` of `count`, with the same weights wherever and whenever it is built."""
        return split(self.whole(), count, self.layers)[index]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of one micro-batch over the tokens that count. `target` is what `labels` is
        in `transformers`: the token numbers themselves, -100 where none counts; a token is judged
        by what was foretold in the place before it."""
        of = import_module("transformers.loss.loss_utils").ForCausalLMLoss
        loss: Tensor = of(output, target, vocab_size=output.shape[-1])
        return loss

    def weight(self, target: Tensor) -> Tensor:
        """How many tokens of a micro-batch count: with these as weights the step's loss is the mean
        over all of its tokens, however they are spread."""
        return (target[..., 1:] != -100).sum()
