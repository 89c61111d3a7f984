"""Exported functions state the shapes of their tensors, and the tests hold them to it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from analysis import laws, token_statistics
from analysis.errors import UsageError
from tests.shapes import CHECKED, typechecker


def bare(hint: object) -> bool:
    """Whether a hint names an array without its shape; a function that is handed over may see any."""
    if get_origin(hint) is Callable:
        return False
    return hint in (Tensor, np.ndarray) or any(bare(part) for part in get_args(hint))


@pytest.mark.parametrize("package", CHECKED)
def test_every_array_of_an_exported_name_has_a_shape(package: str) -> None:
    module = importlib.import_module(package)
    shapeless = []
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isfunction(exported):
            signatures = {name: exported}
        elif inspect.isclass(exported):
            methods = {k: v for k, v in vars(exported).items() if inspect.isfunction(v) and not k.startswith("_")}
            fields = exported if dataclasses.is_dataclass(exported) or hasattr(exported, "_fields") else None
            signatures = {f"{name}.{k}": v for k, v in methods.items()} | ({name: fields} if fields else {})
        else:
            continue
        shapeless += [
            f"{where}: {parameter}"
            for where, signature in signatures.items()
            for parameter, hint in get_type_hints(signature).items()
            if bare(hint)
        ]
    assert shapeless == []


class Pair(NamedTuple):
    first: Float[Tensor, "*batch"]


def test_what_a_function_lets_pass_against_its_annotation_is_seen() -> None:
    @jaxtyped(typechecker=typechecker)
    def total(values: Float[Tensor, "n m"], weights: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        if values.ndim > 2:
            raise UsageError("values: expected two axes")
        return (values * weights).sum(-1)

    @jaxtyped(typechecker=typechecker)
    def field(values: Float[Tensor, "*batch vocab"]) -> Pair:
        return Pair(values)

    assert total(torch.ones(2, 3), torch.ones(3)).tolist() == [3.0, 3.0]
    with pytest.raises(TypeCheckError):
        total(torch.ones(2, 3), torch.ones(1))
    with pytest.raises(TypeCheckError):
        field(torch.ones(2, 3))
    with pytest.raises(UsageError, match="expected two axes"):  # its own message comes first
        total(torch.ones(2, 3, 1), torch.ones(3))


def test_the_hook_is_installed() -> None:
    assert hasattr(laws.entropy, "__wrapped__")
    with pytest.raises(TypeCheckError):
        laws.conserved_differences(np.zeros(3, dtype=np.int64), np.ones(3, dtype=bool))  # works, and is not annotated


def test_arrays_and_numbers_in_place_of_tensors_are_named() -> None:
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    for call, message in (
        (lambda: token_statistics(z.numpy(), y), "logits: expected torch.Tensor, got numpy.ndarray; use torch.from_n"),
        (lambda: token_statistics(z, y.numpy()), "tokens: expected torch.Tensor, got numpy.ndarray; use torch.from_n"),
        (lambda: token_statistics(z[0], 2), r"tokens: expected torch.Tensor, got int; use torch.tensor"),
        (
            lambda: token_statistics(hidden=z, head=z.numpy(), tokens=y),
            r"head: expected torch.Tensor, got numpy.ndarra",
        ),
        (lambda: laws.mass_flow(z[0], 2, 1.0, 0.1), r"tokens: expected torch.Tensor, got int; use torch.tensor"),
        (lambda: laws.mass_flow(z.numpy(), y, 1.0, 0.1), r"logits: expected torch.Tensor, got numpy.ndarray"),
        (lambda: laws.mass_flow(z, y, np.ones(2), 0.1), r"weight: expected torch.Tensor, got numpy.ndarray"),
        (lambda: laws.logit_gradient(z[0], 2, 1.0), r"tokens: expected torch.Tensor, got int"),
        (lambda: laws.logit_gradient(z, y.tolist(), 1.0), r"tokens: expected torch.Tensor, got list; use torch.tensor"),
        (lambda: laws.entropy_change(z.numpy(), 1.0, 0.1), r"stats: expected TokenStatistics, got numpy.ndarray; make"),
        (lambda: laws.squeeze_boundary(z), r"stats: expected TokenStatistics, got torch.Tensor"),
        (lambda: laws.kl_vector(z, z.numpy()), r"ref_logits: expected torch.Tensor, got numpy.ndarray"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    stats = token_statistics(z, y)
    for one in (1, 1.0, torch.tensor(1.0), torch.ones(2)):
        assert torch.equal(laws.entropy_change(stats, one, 0.5), laws.entropy_change(stats, 1.0, 0.5))
        assert torch.equal(laws.mass_flow(z, y, one, 1), laws.mass_flow(z, y, 1.0, 1.0))
