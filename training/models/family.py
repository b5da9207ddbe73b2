"""What a family of networks gives, so that everything else trains, exports and judges any of them alike.

A family is a folder of :mod:`training.models` with the same files: ``network.py`` (the module and its row,
:data:`FAMILY`) and ``onnx.py`` (its part of the step graph); a row in :mod:`training.models.registry`, one in
:mod:`serving.families` (names and shapes of its weights, width of its state), and its compiled step in
:mod:`serving.hotpath.families`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from market.heads import HEADS, horizons_in
from serving import families
from training.models.heads import Floats, Network, Normalisation, probabilities
from training.models.step_graph import Body, step_graph


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Numbers of inputs (F), units of a layer (H) and outputs (P)."""

    inputs: int
    hidden: int
    outputs: int


class StreamingNetwork(nn.Module, ABC):
    """Raw features in, logits out; the state is carried by the caller. A family's module is one of these."""

    family: ClassVar[str]

    head: nn.Linear  # the last layer, (H) to (P)
    mean: Tensor
    scale: Tensor

    def __init__(self, widths: Widths, normalisation: Normalisation) -> None:
        super().__init__()
        self.state_width = families.find(self.family).state(widths.hidden)
        self.clip = normalisation.clip
        self.register_buffer("mean", torch.from_numpy(normalisation.mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(normalisation.scale.astype(np.float32)))

    @abstractmethod
    def unroll(self, x_BTF: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, P) of normalised inputs, and the state after each step (B, T, S). Causal.

        Cut anywhere and gone on with from the state at the cut, it gives the same; one step is ``T`` = 1.
        """

    def forward(self, x_BTF: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, P) of raw inputs, and the state (B, S) after the last step."""
        logits, states_BTS = self.unroll(self.normalised(x_BTF), state_BS)
        return logits, states_BTS[:, -1].contiguous()

    def normalised(self, x_BTF: Tensor) -> Tensor:
        return ((x_BTF - self.mean) * self.scale).clamp(-self.clip, self.clip)

    def start(self, lanes: int) -> Tensor:
        """The state before anything was seen, (B, S)."""
        return torch.zeros(lanes, self.state_width, device=self.mean.device)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one step costs: products added up, and bytes of weights that are read."""

    multiply_adds: int
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. ``build`` draws its weights from torch's generator; ``parameters``: exported name -> the module's
    parameter, all of them; ``body`` writes its part of the ONNX step."""

    name: str
    build: Callable[[Widths, Normalisation], StreamingNetwork]
    parameters: Mapping[str, str]
    body: Callable[[Network], Body]

    @property
    def signature(self) -> families.Family:
        """What serving knows of it: names and shapes of the weights, width of the state."""
        return families.find(self.name)

    def untrained(
        self, widths: Widths, normalisation: Normalisation, *, seed: int, head_bias: tuple[float, ...] = ()
    ) -> StreamingNetwork:
        """A network whose weights depend on ``seed`` alone; with ``head_bias`` (P,) it starts from saying just that.

        Draws from torch's global generator, which it seeds.
        """
        torch.manual_seed(seed)
        model = self.build(widths, normalisation)
        if head_bias:
            with torch.no_grad():
                model.head.weight.mul_(0.1)
                model.head.bias.copy_(torch.tensor(head_bias))
        return model

    def seeded(self, widths: Widths, *, seed: int, normalisation: Normalisation | None = None) -> Network:
        """An untrained network as it is kept, whose weights depend on ``seed`` alone."""
        norm = normalisation or Normalisation.identity(widths.inputs)
        with torch.random.fork_rng(devices=[]):
            model = self.untrained(widths, norm, seed=seed)
        return self.freeze(model, norm, (1.0,) * (len(HEADS) * horizons_in(widths.outputs)))

    def freeze(self, model: StreamingNetwork, normalisation: Normalisation, temperature: tuple[float, ...]) -> Network:
        """The module's weights as plain float32 arrays under their exported names."""
        weights = dict(model.named_parameters())
        tensors = {
            name: np.ascontiguousarray(weights[key].detach().cpu().float().numpy())
            for name, key in self.parameters.items()
        }
        return Network(family=self.name, tensors=tensors, normalisation=normalisation, temperature=temperature)

    def thaw(self, network: Network) -> StreamingNetwork:
        """The module again, in evaluation mode."""
        widths = Widths(inputs=network.inputs, hidden=network.hidden, outputs=network.outputs)
        model = self.build(widths, network.normalisation)
        with torch.no_grad():
            parameters = dict(model.named_parameters())
            for name, key in self.parameters.items():
                parameters[key].copy_(torch.from_numpy(np.array(network.tensors[name])))
        return model.eval()

    def step_model(self, network: Network) -> Any:
        """The ONNX model of one step, see :func:`training.models.step_graph.step_graph`."""
        return step_graph(network, self.body(network), self.signature.state(network.hidden))

    def cost(self, widths: Widths) -> Cost:
        """Of one step of one lane. Every weight of a matrix is used once."""
        shapes = self.signature.shapes(widths.inputs, widths.hidden, widths.outputs).values()
        return Cost(
            multiply_adds=sum(int(np.prod(shape)) for shape in shapes if len(shape) == 2),
            weight_bytes=sum(4 * int(np.prod(shape)) for shape in shapes),
        )


@torch.no_grad()
def stream(model: StreamingNetwork, temperature: tuple[float, ...], x_TF: Floats) -> tuple[Floats, Floats, Floats]:
    """Run one sequence from the zero state in fp32.

    Returns:
        logits (T, P), probabilities (T, P) and the state after each step (T, S).
    """
    x_BTF = torch.from_numpy(np.ascontiguousarray(x_TF, np.float32)).unsqueeze(0)
    logits, states_BTS = model.unroll(model.normalised(x_BTF), model.start(1))
    probs = probabilities(logits, temperature)
    # a state that never changes may be one row seen many times; a writer of files reads memory
    return logits[0].numpy(), probs[0].numpy(), states_BTS[0].contiguous().numpy()
