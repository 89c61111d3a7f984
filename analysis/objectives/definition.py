"""What there is to know of an objective before anything is computed, and where its two formulas are.

No torch here: the functions of an entry are imported when they are first called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .parameters import Parameter

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """One objective as data, in the convention ∂L/∂z = −w·(e_y − π) + r.

    Attributes:
        name: what `get` and a recipe call it.
        title: what tables and figures call it.
        weight: w (or the vector r) as text.
        source: where it was published, with the equation.
        formula: module and prefix of its two functions: "tokens.sapo" stands for `sapo_weight` and `sapo_loss` of
            `analysis/objectives/formulas/tokens.py`. For a regulariser the first of them is named `…_vector`.
        parameters: what `get` accepts for it, with defaults.
        value: what a response counts before normalisation, a name that `advantages.advantages_of` knows.
        reads: what its advantages are made of besides rewards: fields of `ResponseBatch`.
        compares: "group" and "batch" where its value of a response depends on the others of its group or of its batch;
            a normalisation that does so is not counted.
        graded: whether its advantages are defined for rewards other than 0 and 1, whatever their normalisation.
        needs: the fields of `TokenBatch` that its functions read.
        coupling: what else the weight of a token depends on: "token" (nothing that is not given with it), "response",
            "minibatch" or "pair".
        selects: which tokens of a minibatch `selection.select` chooses, for objectives that need a selection.
        aliases: other names.
        form: ratio, probability or log, where the objective has one of them.
        homogeneous: whether w is proportional to A for A of one sign.
        shared_loss: whether every token of a response carries the same share of one loss of the response, so that a
            factor of tokens acts by its mean.
        takes_factor: whether its functions read the factor of a rollout correction (parameter `factor`) themselves,
            instead of being multiplied by it.
        scalar: False where the gradient is a vector over the vocabulary, not a weight times e_y − π.
        trl: the settings under which TRL computes it, and where the two differ; empty where TRL has none.
        verl: the same of verl.
        note: what else a user should know.
    """

    name: str
    title: str
    weight: str
    source: str
    formula: str = "clipped.policy_gradient"
    parameters: tuple[Parameter, ...] = ()
    value: str = "r"
    reads: tuple[str, ...] = ()
    compares: tuple[str, ...] = ()
    graded: bool = False
    needs: tuple[str, ...] = ("advantages",)
    coupling: str = "token"
    selects: str | None = None
    aliases: tuple[str, ...] = ()
    form: str | None = None
    homogeneous: bool = True
    shared_loss: bool = False
    takes_factor: bool = False
    scalar: bool = True
    trl: str = ""
    verl: str = ""
    note: str = ""

    @property
    def defaults(self) -> dict[str, object]:
        """The value of each parameter that is not set."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    @property
    def takes_corrections(self) -> bool:
        """Whether it takes the factors `parameters.CORRECTIONS`: an objective of tokens or responses."""
        return self.scalar and self.coupling != "pair"

    @property
    def is_policy_gradient(self) -> bool:
        """Whether w is A·x·1[not clipped] with x = ρ, π_y or 1 by the form."""
        return self.formula == "clipped.policy_gradient"

    @property
    def weight_function(self) -> Callable[..., Any]:
        """The closed form: (batch, parameters) -> weight and clip; of a regulariser (logits, ref_logits, parameters) ->
        r."""
        return self._function("weight" if self.scalar else "vector")

    @property
    def loss_function(self) -> Callable[..., Any]:
        """The loss: (log_probs, batch, parameters), of a regulariser (logits, ref_logits, parameters)."""
        return self._function("loss")

    def _function(self, kind: str) -> Callable[..., Any]:
        module, _, prefix = self.formula.partition(".")
        function: Callable[..., Any] = getattr(import_module(f"{__package__}.formulas.{module}"), f"{prefix}_{kind}")
        return function
