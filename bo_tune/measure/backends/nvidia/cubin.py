"""Reads from a cubin what a compiled kernel takes of a multiprocessor, before a GPU loads it."""

import io
import struct

from elftools.elf.elffile import ELFFile

from bo_tune.core.outcome import Resources

_INFO = ".nv.info"
_SIZED_VALUE = 4
"""Format of an attribute that is followed by its size and value. Others hold their value in place of the size."""
_REGISTERS = 0x2F
_STACK_FRAME = 0x11
_BYTES_PER_REGISTER = 4


def resources_of(cubin: bytes, shared_memory_bytes: int) -> Resources:
    """Return what a binary of one kernel uses.

    Args:
        cubin: the ELF file.
        shared_memory_bytes: of a block. Triton asks for it at the launch, so the file does not hold it.
    """
    values = _attributes(cubin)
    registers, frame = values.get(_REGISTERS), values.get(_STACK_FRAME)
    spilled = None if frame is None else frame // _BYTES_PER_REGISTER
    return Resources(shared_memory_bytes, registers, spilled)


def _attributes(cubin: bytes) -> dict[int, int]:
    """Return the value of each attribute that is stored as a function's symbol and a number."""
    section = ELFFile(io.BytesIO(cubin)).get_section_by_name(_INFO)
    data = b"" if section is None else section.data()
    values, place = {}, 0
    while place + 4 <= len(data):
        kind, attribute, size = struct.unpack_from("<BBH", data, place)
        place += 4
        if kind != _SIZED_VALUE:
            continue
        if size == 8:
            _, values[attribute] = struct.unpack_from("<II", data, place)
        place += size
    return values
