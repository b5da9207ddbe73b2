"""A feature set's name changes with what the features mean, and with nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from market.features.catalog import FEATURES
from market.features.meaning import digest_of, feature_set

KERNEL = '''
"""A kernel with a constant of its own and one function that another calls."""
from math import sqrt
from market.compiled import compiled, compiled_fast
from market.books.levels import NEAR_LEVELS

TAU = 10.0


@compiled
def decay(x: float, dt: float) -> float:
    """Fading."""
    return x * TAU / (TAU + dt)


@compiled
def root(x: float, dt: float) -> float:
    near = NEAR_LEVELS
    return sqrt(decay(x, dt)) * near
'''


def module_of(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest_after(folder: Path, name: str, old: str = "", new: str = "") -> str:
    assert old in KERNEL
    return digest_of(module_of(folder, name, KERNEL.replace(old, new) if old else KERNEL).root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Fading."""', '"""What fades with time."""'),
        ("    near = NEAR_LEVELS", "    # why five: see the catalog\n    near = NEAR_LEVELS"),
        ("def root(x: float, dt: float) -> float:", "def root(x: 'Price', dt: 'Ns') -> 'Price':"),
        ("TAU = 10.0", "OTHER = 3\nTAU = 10.0"),
        ('"""A kernel with a constant', '"""Another kernel with a constant'),
    ],
)
def test_comments_docstrings_annotations_and_unused_constants_do_not_change_it(
    tmp_path: Path, old: str, new: str
) -> None:
    assert digest_after(tmp_path, "changed", old, new) == digest_after(tmp_path, "as_it_was")


def test_a_move_to_another_file_does_not_change_it(tmp_path: Path) -> None:
    assert digest_after(tmp_path, "here") == digest_after(tmp_path, "there")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("TAU = 10.0", "TAU = 11.0"),
        ("return x * TAU / (TAU + dt)", "return x * TAU / (dt + TAU)"),
        ("@compiled\ndef decay", "@compiled_fast\ndef decay"),
        ("from market.books.levels import NEAR_LEVELS", "NEAR_LEVELS = 6"),
        ("sqrt(decay(x, dt))", "decay(x, dt)"),
    ],
)
def test_a_constant_a_computation_a_compiler_flag_or_a_called_function_changes_it(
    tmp_path: Path, old: str, new: str
) -> None:
    assert digest_after(tmp_path, "changed", old, new) != digest_after(tmp_path, "as_it_was")


def test_the_order_and_the_clips_of_the_catalog_are_part_of_it() -> None:
    assert digest_of(FEATURES) != digest_of(FEATURES[::-1])


def test_a_feature_set_named_earlier_keeps_its_name() -> None:
    """Datasets, bundles and lakes carry this name. A deliberate change goes in the changelog; models are retrained."""
    assert feature_set() == "3c213d70756d1319"


def test_a_value_without_a_defined_meaning_is_rejected(tmp_path: Path) -> None:
    module = module_of(tmp_path, "odd", "class Odd: ...\nODD = Odd()\n\n\ndef root() -> object:\n    return ODD\n")
    with pytest.raises(TypeError, match="define in market"):
        digest_of(module.root)
