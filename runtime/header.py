"""What goes before every message where messages are checked: the step, the message's number on its
channel, the operation whose result it is, and the shapes and types of its tensors. The receiver
knows what must come, and compares. In comes a message's place, out come bytes of one size."""

from hashlib import blake2s

import torch
from torch import Tensor

from stretto.compiler.program.program import Operation, Spec
from stretto.runtime.errors import PipelineError
from stretto.runtime.tensor_spec import TensorSpecs
from stretto.runtime.topology import shown

SIZE = 256  # bytes


class HeaderCheck:
    """The headers of one rank's messages in one step; `number` is the step's."""

    def __init__(self, spec: Spec, number: int, device: torch.device):
        self.spec, self.number, self.device = spec, number, device
        self.sent: dict[int, int] = {}  # by channel, as `received`
        self.received: dict[int, int] = {}
        self.expected: dict[tuple[int, Operation], tuple[bytes, Tensor]] = {}

    def outgoing(self, channel: int, result: Operation, specs: TensorSpecs) -> Tensor:
        """The header of the next message sent on the channel."""
        header = self._header(self._next(self.sent, channel), result, specs)
        return torch.frombuffer(bytearray(header), dtype=torch.uint8).to(self.device)

    def incoming(self, channel: int, result: Operation, specs: TensorSpecs) -> Tensor:
        """A buffer for the header of the next message received on the channel."""
        header = self._header(self._next(self.received, channel), result, specs)
        buffer = torch.empty(SIZE, dtype=torch.uint8, device=self.device)
        self.expected[channel, result] = header, buffer
        return buffer

    def compare(self, channel: int, result: Operation) -> None:
        """Raises `PipelineError` where the header that has come is not the one that must."""
        expected, buffer = self.expected.pop((channel, result))
        found = bytes(buffer.tolist())
        if found != expected:
            raise PipelineError(
                f"another message has come than the plan has here: {_words(found)}, instead of "
                f"{_words(expected)}"
            )

    def _header(self, number: int, result: Operation, specs: TensorSpecs) -> bytes:
        what = ", ".join(map(str, specs)) or "nothing"
        text = (
            f"message {number} of step {self.number} on its channel, "
            f"`{shown(self.spec, result)}`, with {what}"
        ).encode()
        if len(text) > SIZE:
            text = text[: SIZE - 36] + b" .. " + blake2s(text, digest_size=16).hexdigest().encode()
        return text.ljust(SIZE, b"\0")

    def _next(self, counters: dict[int, int], channel: int) -> int:
        counters[channel] = counters.get(channel, 0) + 1
        return counters[channel]


def _words(header: bytes) -> str:
    text = header.rstrip(b"\0").decode(errors="replace")
    readable = all(c.isprintable() for c in text) and text.startswith("message ")
    return text if readable else "bytes that are no header"
