"""The multilayer perceptron: two layers of tanh units on the newest row. It remembers nothing.

What the features already say of the past (their windows) is all the past it has. Beside the recurrent networks it
shows what memory is worth, and it costs about half a step.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from training.models.family import Family, StreamingNetwork, Widths
from training.models.heads import Normalisation
from training.models.mlp.onnx import body


class Perceptron(StreamingNetwork):
    """The state (B, 1) is passed on as it came (why there is one: :class:`serving.families.Family`)."""

    family = "mlp"

    def __init__(self, widths: Widths, normalisation: Normalisation) -> None:
        super().__init__(widths, normalisation)
        self.first = nn.Linear(widths.inputs, widths.hidden)
        self.second = nn.Linear(widths.hidden, widths.hidden)
        self.head = nn.Linear(widths.hidden, widths.outputs)

    def unroll(self, x_BTF: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        hidden_BTH = self.second(self.first(x_BTF).tanh()).tanh()
        return self.head(hidden_BTH), state_BS.unsqueeze(1).expand(-1, x_BTF.shape[1], -1)


FAMILY: Final = Family(
    name=Perceptron.family,
    build=Perceptron,
    parameters={
        "mlp.w1": "first.weight",
        "mlp.b1": "first.bias",
        "mlp.w2": "second.weight",
        "mlp.b2": "second.bias",
        "head.w": "head.weight",
        "head.b": "head.bias",
    },
    body=body,
)
