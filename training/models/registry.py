"""The families that can be trained: a row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from market.errors import SettingsError
from training.models.family import Family
from training.models.gru.network import FAMILY as GRU
from training.models.heads import Network
from training.models.mlp.network import FAMILY as MLP

FAMILIES: Final[Mapping[str, Family]] = {row.name: row for row in (GRU, MLP)}


def find(name: str) -> Family:
    """The family of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in FAMILIES:
        raise SettingsError(
            f"expected a family of networks ({', '.join(sorted(FAMILIES))}), saw {name!r}; set model.family to one"
        )
    return FAMILIES[name]


def family_of(network: Network) -> Family:
    """The family of a network that is kept."""
    return find(network.family)
