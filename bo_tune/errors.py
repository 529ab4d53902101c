"""Exceptions of the package.

::

    BoTuneError
    ├── InputError            input that cannot be used: one line, exit code 2
    │   ├── StudyFileError    a study file's key or value
    │   ├── ModelError        a model's config.json or an impossible sharding of it
    │   │   └── UnknownArchitectureError  one that the table of architectures does not have
    │   ├── TableError        an existing JSON or the output folder
    │   ├── RecordingError    a recorded grid
    │   │   └── UnknownKernelError  one of a kernel that this program does not know
    │   ├── PackError         a pack of binaries: damaged, or made for something else
    │   ├── StorageError      the studies' database
    │   │   └── UnreadableStudyError  one study in it
    │   ├── DeviceError       no usable GPU
    │   └── VllmError         kernels of the installed vLLM that cannot be tuned (in ``kernels.vllm``)
    ├── WorkerError           a compile or GPU process failed beyond one trial
    └── LeaseLostError        another worker took over a study: nothing more is written to it from here
"""


class BoTuneError(Exception):
    """Base of all exceptions that this package raises on purpose."""


class InputError(BoTuneError):
    """Input cannot be used. The message is one line that says how to fix it."""


class StudyFileError(InputError):
    """A study file that cannot be read or holds a wrong key or value."""


class ModelError(InputError):
    """A model config that lacks required fields, or a sharding that is not divisible."""


class UnknownArchitectureError(ModelError):
    """A model of an architecture that bo_tune does not know."""


class TableError(InputError):
    """A tuned JSON that is malformed, or an output folder that cannot be written."""


class RecordingError(InputError):
    """A recorded grid that is truncated, malformed, or of another kernel."""


class UnknownKernelError(RecordingError):
    """A recorded grid of a kernel that this program does not know."""


class PackError(InputError):
    """A pack of binaries that is damaged, or was made for another GPU, Triton or kernel text."""


class StorageError(InputError):
    """A database that cannot be opened, or has another schema version."""


class UnreadableStudyError(StorageError):
    """A study in the database with contents that this package cannot have stored."""


class DeviceError(InputError):
    """No GPU, a GPU of another vendor, or one that cannot be reached."""


class UnusableDeviceError(DeviceError):
    """A GPU on which nothing can be measured. This shows only after compilers have begun."""


class WorkerError(BoTuneError):
    """A failure of a compile or GPU process that affects more than one trial."""


class LeaseLostError(BoTuneError):
    """Another worker took over a study, or may at any moment. Results that are not yet stored are dropped."""


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].strip()) if lines else type(error).__name__


def printable(text: str) -> str:
    """Return a text as a single line that can be shown. Characters that would break it or move a cursor are escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
