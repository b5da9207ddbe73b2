"""The streaming GRU: one recurrent layer that is trained on whole sequences and served one step an event.

Gates in torch's order r, z, n (Cho et al. 2014, with the reset gate applied after the recurrent product, as cuDNN
does).
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from training.models.family import Family, StreamingNetwork, Widths
from training.models.gru.onnx import body
from training.models.heads import Normalisation


class StreamingGru(StreamingNetwork):
    """The state (B, H) is the layer's output; the heads read it."""

    family = "gru"

    def __init__(self, widths: Widths, normalisation: Normalisation) -> None:
        super().__init__(widths, normalisation)
        self.gru = nn.GRU(widths.inputs, widths.hidden, batch_first=True)
        self.head = nn.Linear(widths.hidden, widths.outputs)

    def unroll(self, x_BTF: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        hidden_BTH, _ = self.gru(x_BTF, state_BS.unsqueeze(0))
        return self.head(hidden_BTH), hidden_BTH


FAMILY: Final = Family(
    name=StreamingGru.family,
    build=StreamingGru,
    parameters={
        "gru.w_ih": "gru.weight_ih_l0",
        "gru.w_hh": "gru.weight_hh_l0",
        "gru.b_ih": "gru.bias_ih_l0",
        "gru.b_hh": "gru.bias_hh_l0",
        "head.w": "head.weight",
        "head.b": "head.bias",
    },
    body=body,
)
