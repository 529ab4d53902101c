"""Gets a model's config by its id on the Hugging Face hub, if ``huggingface_hub`` is installed."""

import logging
import re
from pathlib import Path

from bo_tune.engines.models.shape import CONFIG_FILE, ModelShape
from bo_tune.errors import ModelError, one_line

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_shape(model: str, relative_to: Path = Path()) -> ModelShape:
    """Return the shape of a model, given a ``config.json``, a folder with one, or an id such as ``org/name``.

    Args:
        relative_to: folder from which a relative path starts.

    Raises:
        ModelError: it cannot be found or used.
    """
    path = relative_to / model
    if path.exists() or not _ID.fullmatch(model):
        return ModelShape.from_file(path)
    return ModelShape.from_file(download_config(model), name=model.partition("/")[2])


def download_config(model: str) -> Path:
    """Return the local copy of a hub model's config. It is downloaded if necessary.

    Raises:
        ModelError: ``huggingface_hub`` is not installed, or the model is not available.
    """
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - an optional extra
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError  # noqa: PLC0415
    except ImportError:
        raise ModelError(
            f"{model}: no such file or folder; if it is the id of a Hugging Face model, install huggingface_hub: "
            "pip install 'bo_tune[hub]'"
        ) from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error repeats its warnings about retries
    try:
        return Path(hf_hub_download(model, CONFIG_FILE))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"{model}: no such file or folder, and the Hugging Face hub does not provide it: {one_line(error)}"
        ) from None
