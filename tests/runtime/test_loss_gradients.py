"""Where a backward starts at the loss: with what autograd has for it."""

from random import Random

import torch
from torch import Tensor

from stretto.runtime.stage.judge import LossGradients, LossShare, scaled

SHARES = [LossShare(1, total) for total in (1, 3, 7, 16, 16.5)]
SCALES = (1.0, 3.0, 65536.0)
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def by_autograd(loss: Tensor, share: LossShare, scale: float) -> Tensor:
    root = scaled(loss, None, share)
    root = root * scale if scale != 1 else root
    (found,) = torch.autograd.grad(root, loss)
    return found


def test_gradients_of_losses_are_autograds_whatever_came_before() -> None:
    draw, ours = Random(0), LossGradients()
    for _ in range(300):
        share, scale = draw.choice(SHARES), draw.choice(SCALES)
        shape = draw.choice([(), (1,), (1, 1)])
        loss = torch.rand(shape).to(draw.choice(TYPES)).requires_grad_()
        for _ in range(2):
            found = ours.gradient(loss, share, scale)
            expected = by_autograd(loss, share, scale)
            assert found.dtype is expected.dtype and found.shape == expected.shape
            assert torch.equal(found, expected)
            found.zero_()  # a function of the user's may write on what it is given
