"""Small tensors that travel together, beside the same tensors one by one."""

import pytest
import torch
from torch import Tensor

from stretto.runtime.parcels import SMALL, layout_of


def tensors(*which: tuple[torch.dtype, tuple[int, ...]]) -> list[Tensor]:
    """Of these types and shapes, every byte drawn."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for dtype, size in which:
        empty = torch.empty(size, dtype=dtype)
        high = 2 if dtype is torch.bool else 256
        memory = torch.randint(high, (empty.nbytes,), generator=draw, dtype=torch.uint8)
        found.append(memory.view(dtype).view(size))
    return found


CASES: dict[str, list[tuple[torch.dtype, tuple[int, ...]]]] = {
    "one type": [(torch.uint8, (2,)), (torch.float32, (3, 5)), (torch.float32, (5,))],
    "a number alone": [(torch.uint8, (1,)), (torch.float64, ())],
    "many types": [
        (torch.uint8, (3,)),
        (torch.bfloat16, (7,)),
        (torch.complex128, (3,)),
        (torch.bool, (5,)),
        (torch.float16, (1, 3)),
        (torch.float64, (2, 2)),
        (torch.complex64, (1,)),
    ],
    "nothing in one": [(torch.uint8, (2,)), (torch.float32, (0, 4)), (torch.float32, (3,))],
    "large beside small": [
        (torch.uint8, (3,)),
        (torch.float32, (SMALL // 4 + 1,)),
        (torch.float32, (2, 3)),
        (torch.float32, (SMALL // 4,)),
        (torch.float64, (SMALL,)),
    ],
    "one alone": [(torch.float32, (4,))],
    "all large": [(torch.float32, (SMALL,)), (torch.float32, (SMALL,))],
}
MESSAGES = {"large beside small": 3, "all large": 2}


@pytest.mark.parametrize("name", CASES)
def test_what_was_sent_is_found_in_the_buffers(name: str) -> None:
    sent = tensors(*CASES[name])
    layout = layout_of([torch.empty_like(one) for one in sent])
    assert layout.fits(sent)
    message, received = layout.buffers()
    leaving = layout.packed(sent)
    assert len(leaving) == len(message) == MESSAGES.get(name, 1)
    for buffer, one in zip(message, leaving, strict=True):
        assert buffer.nbytes == one.nbytes and buffer.dtype is one.dtype
        buffer.copy_(one)
    for found, one in zip(received, sent, strict=True):
        assert found.dtype is one.dtype and found.shape == one.shape
        assert found.is_contiguous()
        same = found.view(-1).view(torch.uint8), one.view(-1).view(torch.uint8)
        assert torch.equal(*same)


def test_a_layout_is_of_tensors_that_are_alike() -> None:
    sent = tensors(*CASES["many types"])
    layout = layout_of(sent)
    other_type = [sent[0], sent[1].half(), *sent[2:]]
    other_shape = [*sent[:4], sent[4].view(3, 1), *sent[5:]]
    elsewhere = [*sent[:-1], sent[-1].to("meta")]
    for unlike in (other_type, other_shape, elsewhere, sent[:-1]):
        assert not layout.fits(unlike)
        message, found = layout_of(unlike).buffers()
        assert [one.nbytes for one in layout_of(unlike).packed(unlike)] == [
            one.nbytes for one in message
        ]
        for one, like in zip(found, unlike, strict=True):
            assert (one.shape, one.dtype, one.device) == (like.shape, like.dtype, like.device)
