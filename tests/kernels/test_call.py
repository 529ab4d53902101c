"""A launch with all that it is given, where Triton's part is played."""

from typing import Any

import pytest

from bo_tune.kernels.call import KernelCall


class Compiled:
    """A loaded kernel, which wants a number of programs along each of three axes."""

    def __init__(self) -> None:
        self.launched: list[tuple[tuple[int, int, int], tuple[Any, ...]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any) -> None:
            self.launched.append(((grid[0], grid[1], grid[2]), arguments))

        return run


class Kernel:
    """A jit function: launched by any number of axes, it returns the loaded kernel."""

    __name__ = "kernel"

    def __init__(self) -> None:
        self.compiled = Compiled()

    @staticmethod
    def fn(x: int, y: int = 5) -> None:
        """What it takes."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *_, **__: self.compiled


@pytest.mark.parametrize("grid", [(7,), (7, 1), (7, 1, 1)])
def test_the_launches_that_follow_have_a_grid_of_three_axes(grid: tuple[int, ...]) -> None:
    kernel = Kernel()
    again = KernelCall(kernel, grid, (3,), {"num_warps": 4}).launch()
    assert again is not None
    again()
    assert kernel.compiled.launched == [((7, 1, 1), (3, 5))]
