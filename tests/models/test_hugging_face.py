"""Stages cut out of Hugging Face's models compute what the model computes: bit for bit, gradients
too, masked and with windows, however many layers each has."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.runtime import PipelineError
from tests.models.zoo import DECODER, NO_DROPOUT, ROUTED, SMALL, WINDOWS
from tests.support.training import there

transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2Config", SMALL | NO_DROPOUT),
    "Llama": ("LlamaConfig", DECODER),
    "Mistral": ("MistralConfig", DECODER | {"sliding_window": 4}),
    "Qwen2": ("Qwen2Config", DECODER | WINDOWS),
    "Qwen3": ("Qwen3Config", DECODER | WINDOWS),
    "Mixtral": ("MixtralConfig", ROUTED | {"num_local_experts": 4}),
    "Qwen2 MoE": (
        "Qwen2MoeConfig",
        ROUTED
        | {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    ),
    "Qwen3 MoE": ("Qwen3MoeConfig", ROUTED | {"num_experts": 4, "moe_intermediate_size": 8}),
}


def whole(name: str, layers: int = 4, **more: Any) -> nn.Module:
    kind, options = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**options | {"num_hidden_layers": layers} | more)
    return transformers.AutoModelForCausalLM.from_config(config)


def tokens() -> tuple[Tensor, Tensor]:
    """Three sentences, one of them padded on the left."""
    x = torch.randint(SMALL["vocab_size"], (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(x)
    mask[1, :4] = 0
    return x, mask


def run(stages: list[Any], x: Tensor, **more: Any) -> Tensor:
    for stage in stages:
        x = stage(x, **more)
    return x


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layers", [[4], [1, 3], [0, 2, 2, 0]])
def test_the_stages_compute_what_the_model_computes(name: str, layers: list[int]) -> None:
    from stretto.runtime.hf import split

    model = whole(name)
    x, mask = tokens()
    expected = model(input_ids=x, attention_mask=mask).logits
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    stages = split(model, len(layers), layers)
    found = run(stages, x, attention_mask=mask)
    assert torch.equal(found, expected)
    (found * weights).sum().backward()
    held = {n: p.grad for stage in stages for n, p in stage.named_parameters()}
    assert held.keys() - gradients.keys() <= {"lm_head.weight"}  # tied: under both names
    for n, gradient in gradients.items():
        assert (gradient is None) == (held[n] is None)
        assert gradient is None or torch.equal(gradient, there(held[n]))


@pytest.mark.parametrize("name", CONFIGS)
def test_stages_can_be_cut_on_the_meta_device_and_filled_from_the_whole(name: str) -> None:
    from stretto.runtime.hf import fill, split

    model = whole(name)
    with torch.device("meta"):
        stages = split(whole(name), 2)
    state = model.state_dict()
    for stage in stages:
        fill(stage, state, "cpu")
    x, _ = tokens()
    assert torch.equal(run(stages, x), model(input_ids=x).logits)
    state.pop("lm_head.weight")
    with pytest.raises(PipelineError, match=r"the weights lack 1 of stage 1: lm_head\.weight"):
        fill(stages[1], state, "cpu")


def test_a_model_for_the_command_line_builds_the_same_stages_each_time() -> None:
    from stretto.runtime.hf import CausalLM

    kind, options = CONFIGS["Llama"]
    model = CausalLM(getattr(transformers, kind)(**options), seed=3)
    torch.manual_seed(5)
    first = model.stage(1, 4).state_dict()
    torch.manual_seed(6)
    again = model.stage(1, 4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    target = tokens()[0].clone()
    target[0, 5:] = -100
    assert model.weight(target) == 3 * 8 - 4
    logits = torch.randn(3, 9, SMALL["vocab_size"])
    flat = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten())
    assert torch.allclose(model.loss(logits, target), flat)


def refusal(model: nn.Module, stages: int = 2, layers: Any = None) -> str:
    from stretto.runtime.hf import split

    with pytest.raises(PipelineError) as error:
        split(model, stages, layers)
    return str(error.value)


def test_what_cannot_be_split_is_refused_by_name() -> None:
    assert "4 layers cannot be split into 5 stages" in refusal(whole("Llama"), 5)
    assert "give 2 numbers" in refusal(whole("Llama"), 2, [3, 3])
    assert "is no model of `transformers`" in refusal(nn.Linear(2, 2))
    assert "balancing loss" in refusal(whole("Mixtral", output_router_logits=True))
    base = transformers.LlamaModel(transformers.LlamaConfig(**DECODER))
    assert "has no `lm_head`" in refusal(base)
    other = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    )
    assert "family gpt_neox" in refusal(other)
