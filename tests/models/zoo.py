"""The models of the table. Each can be built in one piece and as stages that share its parameters,
and brings a batch and a loss. Those with `needs` come from a package that may be absent."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, TOKENS, VOCABULARY = 8, 6, 23
LAYERS = 16  # any stage of the schedules of the table has one at least


class Batch(NamedTuple):
    """What a step is given: x, the keywords that every stage takes, the target. A list is one of
    micro-batches."""

    x: Any
    every_stage: dict[str, Any]
    target: Any


class Entry(NamedTuple):
    """A model: `build(stages)` gives its stages, fresh ones, with the same weights each time, to be
    called one after another; `batch(rows)`; the loss of a micro-batch and, where it is a mean over
    tokens, its weight. `needs`: a package."""

    name: str
    build: Callable[[int], list[nn.Module]]
    batch: Callable[[int], Batch]
    loss: Callable[[Any, Any], Tensor]
    weight: Callable[[Any], Any] | None = None
    needs: str = ""

    @property
    def there(self) -> bool:
        """Whether its package is installed."""
        return not self.needs or find_spec(self.needs) is not None


def square(output: Tensor, target: Tensor) -> Tensor:
    """The mean of squares."""
    return (output - target).square().mean()


def tokens(output: Tensor, target: Tensor) -> Tensor:
    """The mean over all tokens that count."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _in_stages(layers: Sequence[nn.Module], stages: int) -> list[nn.Module]:
    """The layers in as many rows, as equal as can be."""
    many = len(layers)
    bounds = [k * many // stages for k in range(stages + 1)]
    return [nn.Sequential(*layers[a:b]) for a, b in pairwise(bounds)]


def _seeded(make: Callable[[], list[nn.Module]]) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make()


# Vectors ----------------------------------------------------------------------------------------


class Perceptron(nn.Module):
    """A layer with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, WIDTH) on both sides."""
        out: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return out


def _perceptron(stages: int) -> list[nn.Module]:
    return _seeded(lambda: _in_stages([Perceptron() for _ in range(LAYERS)], stages))


def _vectors(rows: int) -> Batch:
    draw = _draw()
    x, y = torch.randn(rows, WIDTH, generator=draw), torch.randn(rows, WIDTH, generator=draw)
    return Batch(x, {}, y)


class Mixture(nn.Module):
    """Two of four experts a row, chosen by a router: an expert may get no row."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, WIDTH) on both sides."""
        share, chosen = self.router(x).softmax(-1).topk(2)
        total = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            row, slot = (chosen == k).nonzero(as_tuple=True)
            if len(row):
                part = share[row, slot, None] * expert(x[row]).tanh()
                total = total.index_add(0, row, part.to(x.dtype))
        return x + total


def _mixture(stages: int) -> list[nn.Module]:
    return _seeded(lambda: _in_stages([Mixture() for _ in range(LAYERS)], stages))


# Sequences --------------------------------------------------------------------------------------


class Attention(nn.Module):
    """A causal layer of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.out, self.mlp = nn.Linear(WIDTH, WIDTH), Perceptron()

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, tokens, WIDTH) on both sides."""
        rows, length, _ = x.shape
        q, k, v = (
            t.view(rows, length, 2, -1).transpose(1, 2)
            for t in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.mlp(x + self.out(seen.transpose(1, 2).reshape(rows, length, WIDTH)))
        return out


class Tokens(nn.Module):
    """An embedding, and one for the place."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers to (sequences, tokens, WIDTH)."""
        out: Tensor = self.words(x) + self.places(torch.arange(x.shape[1]))
        return out


class Scores(nn.Module):
    """A score for every word."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, tokens, WIDTH) to (…, VOCABULARY)."""
        out: Tensor = self.head(self.norm(x))
        return out


def _gpt(stages: int) -> list[nn.Module]:
    def make() -> list[nn.Module]:
        layers = [Tokens(), *(Attention() for _ in range(LAYERS)), Scores()]
        return _in_stages(layers, stages)

    return _seeded(make)


def _sentences(rows: int) -> Batch:
    draw = _draw()
    x = torch.randint(VOCABULARY, (rows, TOKENS), generator=draw)
    target = torch.randint(VOCABULARY, (rows, TOKENS), generator=draw)
    for row in range(rows):
        target[row, TOKENS - row % 4 :] = -100
    return Batch(x, {}, target)


def counted(target: Tensor) -> Tensor:
    """How many words of the target count."""
    return (target != -100).sum()


class Recurrent(nn.Module):
    """A layer that reads a sequence word by word."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, tokens, WIDTH) on both sides."""
        out: Tensor = x + self.cell(x)[0]
        return out


def _recurrent(stages: int) -> list[nn.Module]:
    def make() -> list[nn.Module]:
        layers = [Tokens(), *(Recurrent() for _ in range(LAYERS)), Scores()]
        return _in_stages(layers, stages)

    return _seeded(make)


# Pictures ---------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two convolutions, with what a picture model has: BatchNorm, and a ReLU that writes in place,
    as the first thing it does too."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.ReLU(inplace=True)
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4, height, width) on both sides."""
        out: Tensor = x + self.body(self.start(x))
        return out


class Classes(nn.Sequential):
    """The mean over the picture, and a score for each of five classes."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def _resnet(stages: int) -> list[nn.Module]:
    def make() -> list[nn.Module]:
        layers = [nn.Conv2d(3, 4, 3, padding=1), *(Residual() for _ in range(LAYERS)), Classes()]
        return _in_stages(layers, stages)

    return _seeded(make)


def _pictures(rows: int) -> Batch:
    draw = _draw()
    x = torch.randn(rows, 3, 8, 8, generator=draw)
    return Batch(x, {}, torch.randint(5, (rows,), generator=draw))


class UNetPart(nn.Module):
    """One level of a U-Net, going down or up. What the way down leaves for the way up travels
    through the stages between, beside the picture."""

    def __init__(self, down: bool):
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(4 if down else 8, 4, 3, padding=1)

    def forward(self, x: Tensor, *skipped: Tensor) -> tuple[Tensor, ...]:
        """The picture, and the skipped ones, the newest last."""
        if self.down:
            kept = F.gelu(self.conv(x))
            return F.avg_pool2d(kept, 2), *skipped, kept
        *others, newest = skipped
        return F.gelu(self.conv(torch.cat([F.interpolate(x, scale_factor=2), newest], 1))), *others


class UNetStage(nn.Module):
    """Some levels in a row."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *x: Tensor) -> Any:
        """A picture with skipped ones; the last stage gives a picture alone."""
        for part in self.parts:
            made = part(*x)
            x = made if isinstance(made, tuple) else (made,)
        return x[0] if len(x) == 1 else x


def _unet(stages: int) -> list[nn.Module]:
    def make() -> list[nn.Module]:
        levels = [nn.Conv2d(3, 4, 1), *(UNetPart(down=True) for _ in range(3))]
        levels += [UNetPart(down=False) for _ in range(3)]
        levels += [Perceptron2d() for _ in range(LAYERS - len(levels))]
        many = len(levels)
        bounds = [k * many // stages for k in range(stages + 1)]
        return [UNetStage(levels[a:b]) for a, b in pairwise(bounds)]

    return _seeded(make)


class Perceptron2d(nn.Module):
    """A convolution of one pixel, to make a model long enough."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4, height, width) on both sides."""
        out: Tensor = x + torch.tanh(self.conv(x))
        return out


def _pixels(rows: int) -> Batch:
    draw = _draw()
    x = torch.randn(rows, 3, 8, 8, generator=draw)
    return Batch(x, {}, torch.randn(rows, 4, 8, 8, generator=draw))


# Hugging Face -----------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
DECODER = SMALL | {"intermediate_size": 16, "num_key_value_heads": 1, "head_dim": 4}
ROUTED = DECODER | {"num_experts_per_tok": 2}


def hugging_face(
    name: str, config: str, options: dict[str, Any], prepare: Callable[[Any], Any] | None = None
) -> Entry:
    """A model of `transformers`, with sentences of unequal length: padded on the right, masked for
    every stage, -100 in the labels."""

    def model() -> Any:
        from stretto.runtime.hf import CausalLM

        made = getattr(import_module("transformers"), config)(**options)
        return CausalLM(made, seed=1, prepare=prepare)

    def build(stages: int) -> list[nn.Module]:
        from stretto.runtime.hf import split

        return list(split(model().whole(), stages))

    return Entry(
        name,
        build,
        _padded,
        lambda output, target: model().loss(output, target),
        lambda target: (target[..., 1:] != -100).sum(),
        needs="peft" if prepare is lora else "transformers",
    )


def _padded(rows: int) -> Batch:
    x = torch.randint(VOCABULARY, (rows, TOKENS), generator=_draw())
    mask = torch.ones_like(x)
    for row in range(rows):
        mask[row, TOKENS - row % 3 :] = 0
    return Batch(x, {"attention_mask": mask}, x.masked_fill(mask == 0, -100))


def lora(model: Any) -> Any:
    """The model with adapters of rank 2 at its queries and values, the rest frozen."""
    peft = import_module("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
EXPERTS = {"moe_intermediate_size": 8}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
ZOO = (
    Entry("perceptron", _perceptron, _vectors, square),
    Entry("mixture of experts", _mixture, _vectors, square),
    Entry("GPT", _gpt, _sentences, tokens, counted),
    Entry("LSTM", _recurrent, _sentences, tokens, counted),
    Entry("ResNet", _resnet, _pictures, F.cross_entropy),
    Entry("U-Net", _unet, _pixels, square),
    hugging_face("GPT-2", "GPT2Config", SMALL | NO_DROPOUT),
    hugging_face("Llama", "LlamaConfig", DECODER),
    hugging_face("Llama, tied", "LlamaConfig", DECODER | {"tie_word_embeddings": True}),
    hugging_face("Llama, LoRA", "LlamaConfig", DECODER, lora),
    hugging_face("Mistral", "MistralConfig", DECODER | {"sliding_window": 4}),
    hugging_face("Qwen2", "Qwen2Config", DECODER | WINDOWS),
    hugging_face("Qwen3", "Qwen3Config", DECODER | WINDOWS),
    hugging_face("Qwen3 MoE", "Qwen3MoeConfig", ROUTED | {"num_experts": 4} | EXPERTS),
    hugging_face("Mixtral", "MixtralConfig", ROUTED | {"num_local_experts": 4}),
)
"""Every model of the table, ours first."""
