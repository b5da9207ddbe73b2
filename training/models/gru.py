"""The streaming GRU: one recurrent layer that is trained on whole sequences and served one step an event.

Shapes in names: ``B`` lanes, ``T`` steps, ``F`` inputs, ``H`` hidden width, ``P`` outputs (logits, laid out as
:class:`serving.manifest.Heads` says). Gates in torch's order r, z, n (Cho et al. 2014, with the reset gate applied
after the recurrent product, as cuDNN does).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]

GROUP = 5  # outputs of one horizon: down, none, up, bid falls, ask falls
DIRECTIONS = 3

# exported name -> the module's parameter
_PARAMETERS = {
    "gru.w_ih": "gru.weight_ih_l0",
    "gru.w_hh": "gru.weight_hh_l0",
    "gru.b_ih": "gru.bias_ih_l0",
    "gru.b_hh": "gru.bias_hh_l0",
    "head.w": "head.weight",
    "head.b": "head.bias",
}


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """``x = clip((raw - mean) * scale, -clip, clip)`` in float32; ``mean`` and ``scale`` have shape (F,).

    ``scale`` 0 switches an input off: it did not vary where it was measured, so nothing is known about it.
    """

    mean: Floats
    scale: Floats
    clip: float


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as it is kept and exported: plain tensors, with what turns its logits into probabilities.

    ``tensors``: ``gru.w_ih (3H, F)``, ``gru.w_hh (3H, H)``, ``gru.b_ih (3H,)``, ``gru.b_hh (3H,)``, ``head.w (P, H)``,
    ``head.b (P,)``. ``temperature``: ``[direction, bid, ask]`` per horizon in order.
    """

    tensors: dict[str, Floats]
    normalisation: Normalisation
    temperature: tuple[float, ...]

    @property
    def inputs(self) -> int:
        return int(self.tensors["gru.w_ih"].shape[1])

    @property
    def hidden(self) -> int:
        return int(self.tensors["gru.w_hh"].shape[1])

    @property
    def outputs(self) -> int:
        return int(self.tensors["head.w"].shape[0])


class StreamingGru(nn.Module):
    """Raw features in, logits out; the state is carried by the caller."""

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: int, hidden: int, outputs: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)
        self.clip = normalisation.clip
        self.register_buffer("mean", torch.from_numpy(normalisation.mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(normalisation.scale.astype(np.float32)))

    def forward(self, x_BTF: Tensor, state_BH: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, P) and the state (B, H) after the last step."""
        x_BTF = ((x_BTF - self.mean) * self.scale).clamp(-self.clip, self.clip)
        hidden_BTH, last_1BH = self.gru(x_BTF, state_BH.unsqueeze(0))
        return self.head(hidden_BTH), last_1BH.squeeze(0)

    def start(self, lanes: int) -> Tensor:
        """The state before anything was seen, (B, H)."""
        return torch.zeros(lanes, self.gru.hidden_size, device=self.mean.device)


def probabilities(logits: Tensor, temperature: tuple[float, ...]) -> Tensor:
    """Probabilities (..., P) of logits (..., P): softmax over the three directions, a sigmoid for each depth loss.

    ``temperature`` has one positive divisor per head: ``[direction, bid, ask]`` per horizon.
    """
    scaled = logits / torch.from_numpy(head_divisors(temperature))
    grouped = scaled.reshape(*scaled.shape[:-1], -1, GROUP)
    direction = grouped[..., :DIRECTIONS].softmax(-1)
    depth = grouped[..., DIRECTIONS:].sigmoid()
    return torch.cat((direction, depth), -1).flatten(-2)


def head_divisors(temperature: tuple[float, ...]) -> Floats:
    """One divisor an output (P,) from one a head: the three directions of a horizon share theirs."""
    per_head = np.asarray(temperature, np.float32).reshape(-1, 3)
    return np.hstack([np.repeat(per_head[:, :1], DIRECTIONS, axis=1), per_head[:, 1:]]).reshape(-1)


def seeded(*, inputs: int, hidden: int, outputs: int, seed: int, normalisation: Normalisation | None = None) -> Network:
    """An untrained network whose weights depend on ``seed`` alone."""
    norm = normalisation or Normalisation(
        mean=np.zeros(inputs, np.float32), scale=np.ones(inputs, np.float32), clip=5.0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StreamingGru(inputs, hidden, outputs, norm)
    return freeze(model, norm, (1.0,) * (3 * outputs // GROUP))


def freeze(model: StreamingGru, normalisation: Normalisation, temperature: tuple[float, ...]) -> Network:
    """The module's weights as plain float32 arrays under their exported names."""
    parameters = dict(model.named_parameters())
    tensors = {
        name: np.ascontiguousarray(parameters[key].detach().cpu().float().numpy()) for name, key in _PARAMETERS.items()
    }
    return Network(tensors=tensors, normalisation=normalisation, temperature=temperature)


def thaw(network: Network) -> StreamingGru:
    """The module again, in evaluation mode."""
    model = StreamingGru(network.inputs, network.hidden, network.outputs, network.normalisation)
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, key in _PARAMETERS.items():
            parameters[key].copy_(torch.from_numpy(np.array(network.tensors[name])))
    return model.eval()


@torch.no_grad()
def stream(model: StreamingGru, temperature: tuple[float, ...], x_TF: Floats) -> tuple[Floats, Floats, Floats]:
    """Run one sequence from the zero state in fp32.

    Returns:
        logits (T, P), probabilities (T, P) and the state after each step (T, H).
    """
    x_BTF = torch.from_numpy(np.ascontiguousarray(x_TF, np.float32)).unsqueeze(0)
    x_BTF = ((x_BTF - model.mean) * model.scale).clamp(-model.clip, model.clip)
    hidden_BTH, _ = model.gru(x_BTF, model.start(1).unsqueeze(0))
    logits = model.head(hidden_BTH)
    probs = probabilities(logits, temperature)
    return logits[0].numpy(), probs[0].numpy(), hidden_BTH[0].numpy()
