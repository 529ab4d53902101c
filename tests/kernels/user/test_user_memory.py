"""The memory of arguments: shared, strided, expanded, of odd sizes."""

from collections import namedtuple

import torch

from bo_tune.kernels.user.check.memory import Memory, bytes_of, copied, tensors_in

Pair = namedtuple("Pair", "first second")


def test_tensors_are_found_in_tuples_and_lists() -> None:
    a, b, c = (torch.zeros(1) for _ in range(3))
    assert [id(t) for t in tensors_in([a, 1, (b, "x", [c])])] == [id(a), id(b), id(c)]


def test_memory_that_is_shared_counts_once_and_a_view_has_all_of_it() -> None:
    whole = torch.zeros(100)
    expanded = torch.zeros(1).expand(1000)
    arguments = {"a": whole[:10], "b": whole[50:].view(5, 10), "c": expanded, "n": 5}
    assert bytes_of(arguments) == 400 + 4
    assert Memory.of(arguments, ["c"]).nbytes == 400
    assert Memory.of(arguments, ["a"]).nbytes == 404  # b reads what a writes


def test_every_kind_of_view_is_brought_back() -> None:
    whole = torch.arange(101, dtype=torch.uint8)
    arguments = {
        "strided": torch.arange(24.0).view(4, 6)[1:, ::2],
        "turned": torch.arange(12.0).view(3, 4).T,
        "expanded": torch.ones(1).expand(8),
        "overlapping": torch.arange(10.0).as_strided((4, 4), (2, 1)),
        "odd": whole[3:],
        "empty": torch.empty(0),
        "pair": Pair(torch.full((3,), torch.nan), torch.tensor(5)),
    }
    memory = Memory.of(arguments, [])
    before = copied(arguments)
    memory.note_changes()
    assert not memory.changed
    arguments["strided"][0, 0] = -1
    arguments["expanded"][0] = 7
    whole[0] = 9  # outside of what is passed, where a kernel may write too
    arguments["pair"].second.fill_(6)
    memory.note_changes()
    assert len(memory.changed) == 4
    memory.restore()
    assert whole[0] == 0
    assert torch.equal(arguments["strided"], before["strided"])
    assert float(arguments["expanded"][5]) == 1
    assert int(arguments["pair"].second) == 5
    arguments["turned"][0, 0] = -1
    memory.restore()
    assert float(arguments["turned"][0, 0]) == -1  # not known to change
    memory.note_changes()
    memory.restore()
    assert float(arguments["turned"][0, 0]) == 0


def test_copies_share_memory_among_themselves_as_the_originals_do() -> None:
    whole, function = torch.zeros(10), object()
    arguments = {"a": whole[:5], "b": (whole[3:], function), "c": Pair(whole, [whole.requires_grad_() * 1])}
    made = copied(arguments)
    made["a"].fill_(1)
    assert made["b"][0][:2].tolist() == [1, 1]
    assert made["c"].first[:6].tolist() == [1, 1, 1, 1, 1, 0]
    assert made["b"][1] is function
    assert isinstance(made["c"], Pair)
    assert not whole.any()
