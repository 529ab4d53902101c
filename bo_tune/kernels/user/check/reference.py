"""The right outputs for the arguments of one problem: the reference's, or those of the default config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bo_tune.errors import InputError
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.check.comparison import Right, right_output
from bo_tune.kernels.user.check.filling import FillingAllocations, filling, is_filled
from bo_tune.kernels.user.check.memory import copied, tensor_of
from bo_tune.kernels.user.definition import Definition

Returned = Mapping[str, torch.Tensor]
"""The outputs that a launch has returned. They are not among its arguments."""

RunDefault = Callable[[dict[str, Any]], Returned]
"""Launches the default config with some arguments."""


@dataclass(frozen=True, slots=True)
class RightOutputs:
    """All right outputs of a problem."""

    outputs: tuple[Right, ...]

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""
        return sum(right.nbytes for right in self.outputs)

    def judge(self, results: Mapping[str, Any]) -> Verdict:
        """Say of each output among the results whether it is right."""
        verdicts = [_verdict(right, tensor_of(results.get(right.name))) for right in self.outputs]
        errors = [verdict.error for verdict in verdicts if verdict.error is not None]
        wrong = "; ".join(verdict.wrong for verdict in verdicts if verdict.wrong)
        return Verdict(max(errors) if len(errors) == len(verdicts) else None, wrong)


def _verdict(right: Right, output: torch.Tensor | None) -> Verdict:
    expected = right.values
    if output is not None and (output.shape, output.dtype) == (expected.shape, expected.dtype):
        return right.judge(output)
    return Verdict(None, f"{right.name}: got {_described(output)}, expected {_described(expected)}")


def _described(tensor: torch.Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def poison(definition: Definition, arguments: Mapping[str, Any], *, other: bool = False) -> None:
    """Fill those outputs among arguments that are not read, so that unwritten elements show.

    The filling is NaN, the largest integer or True; the other one is 0, the smallest integer or False.
    """
    for name in definition.written_only:
        output = tensor_of(arguments.get(name))
        if output is not None:
            output.fill_(filling(output.dtype, other=other))


def right_outputs(definition: Definition, arguments: Mapping[str, Any], run_default: RunDefault) -> RightOutputs:
    """Ask the reference for the right outputs. It gets copies, and may do anything to them.

    The reference has not written an element that still holds the filling. Only a second filling can tell whether a NaN
    was written.

    Args:
        run_default: runs the default config, whose results are right if there is no reference.

    Raises:
        InputError: the reference returns impossible outputs, or none at all.
    """
    asked = _Asked(definition, arguments, run_default)
    said, made = asked.answer(other=False), asked.outputs
    filled = [n for n in definition.written_only if n in arguments or definition.reference is None]
    untouched = {name: is_filled(said[name], made[name].dtype) for name in filled}
    if any(bool(where.any()) for where in untouched.values()):
        again = asked.answer(other=True)
        untouched = {n: where & is_filled(again[n], made[n].dtype, other=True) for n, where in untouched.items()}
    rights = []
    for name in definition.output_names:
        ignored = untouched.get(name)
        if ignored is not None and bool(ignored.all()) and ignored.numel():
            raise InputError(f"{definition.name}: {asked.who} writes nothing to {name!r}")
        ignored = ignored if ignored is not None and bool(ignored.any()) else None
        try:
            rights.append(right_output(name, made[name], said[name], ignored, definition.tolerances[name]))
        except InputError as error:
            raise InputError(f"{definition.name}: {error}") from error
    return RightOutputs(tuple(rights))


class _Asked:
    """The reference, or the default config in its place, asked about the arguments of one problem.

    Attributes:
        who: its name in messages.
        outputs: tensors of the outputs' types and shapes.
    """

    def __init__(self, definition: Definition, arguments: Mapping[str, Any], run_default: RunDefault) -> None:
        self._definition, self._arguments, self._run_default = definition, arguments, run_default
        self.who = "the reference" if definition.reference is not None else "the default config"
        among = {name: tensor_of(arguments.get(name)) for name in definition.output_names}
        self.outputs = {name: tensor for name, tensor in among.items() if tensor is not None}
        if len(self.outputs) < len(among):
            self.outputs |= self._results_of_default(other=False)

    def answer(self, *, other: bool) -> dict[str, torch.Tensor]:
        """Return the right outputs, given outputs with one filling or the other."""
        if self._definition.reference is None:
            return self._results_of_default(other=other)
        given = self._given(other=other)
        return self._by_name(self._definition.reference(given), given)

    def _given(self, *, other: bool) -> dict[str, Any]:
        given = copied(self._arguments)
        poison(self._definition, given, other=other)
        return given

    def _results_of_default(self, *, other: bool) -> dict[str, torch.Tensor]:
        given = self._given(other=other)
        with FillingAllocations(other=other):
            results = {**given, **self._run_default(given)}
        found = {name: tensor_of(results.get(name)) for name in self._definition.output_names}
        for name, tensor in found.items():
            if tensor is None:
                raise InputError(f"{self._definition.name}: outputs: {name!r} is neither an argument nor returned")
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _by_name(self, said: Any, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the outputs that the reference has returned, or written to its arguments, by name."""
        names = self._definition.output_names
        if said is None:
            said = {name: tensor_of(given.get(name)) for name in names}
        elif isinstance(said, torch.Tensor):
            said = {names[0]: said} if len(names) == 1 else {}
        elif isinstance(said, (tuple, list)):
            said = dict(zip(names, said, strict=False)) if len(said) == len(names) else {}
        found: dict[str, torch.Tensor] = {}
        for name in names:
            made = self.outputs[name]
            one = said.get(name) if isinstance(said, Mapping) else said
            if not isinstance(one, torch.Tensor) or one.shape != made.shape:
                got = (
                    tuple(one.shape) if isinstance(one, torch.Tensor) else "none" if one is None else type(one).__name__
                )
                of = f" for {name!r}" if len(names) > 1 else ""
                expected = f"expected a tensor of shape {tuple(made.shape)}{of}"
                raise InputError(f"{self._definition.name}: reference: {expected}, got {got}")
            found[name] = one.detach().to(made.device)
        return found
