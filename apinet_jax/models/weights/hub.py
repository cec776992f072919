"""Pretrained weights: a file, a folder, or a timm model on the Hugging Face hub.

Weights are read from safetensors and never from a pickle, which may run code. The normalisation of
their images is stored next to them, in timm's `config.json`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apinet_jax.config_checks import STATISTICS, are_pixel_statistics
from apinet_jax.system.errors import InputError
from apinet_jax.system.mirror import local_copy
from apinet_jax.system.paths import AnyPath, is_remote, local_path, to_path

HUB = "timm:"
PUBLISHED_HUB = "hf:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_OPTION = "model.pretrained"
_REPAIR = "Fetch it again, or remove it and set model.mean and model.std."
_LARGEST = 10_000  # side of images, in pixels; larger is a mistake
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")

Statistics = tuple[float, float, float]


class Pretrained(NamedTuple):
    """Pretrained weights and facts from their configuration, `None` where it lacks them.

    Attributes:
        path: The safetensors file.
        source: Permanent name of the file: its absolute path, `gs://BUCKET/...` or
            `timm:NAME@COMMIT`.
        mean: Mean of each channel of the training images, for pixels from 0 to 1.
        std: Their standard deviation.
        size: Side of those images.
        architecture: timm's name of the model.
    """

    path: Path
    source: str
    mean: Statistics | None = None
    std: Statistics | None = None
    size: int | None = None
    architecture: str | None = None


def is_on_hub(name: str) -> bool:
    """Return whether `model.pretrained` names a model on the hub rather than a file."""
    return name.startswith(HUB)


def find_pretrained(name: str) -> Pretrained:
    """Find pretrained weights; download them if they are on the hub and not in its cache.

    Args:
        name: `timm:NAME`, the repository `timm/NAME` on the hub, or `timm:NAME@REVISION`; a
            safetensors file, with an optional configuration `NAME.json` next to it; or a folder
            with `model.safetensors` and `config.json`, as on the hub. Files and folders in a bucket
            are copied.

    Raises:
        InputError: The weights do not exist or are a pickle, the hub does not serve them, or their
            configuration cannot be read. A missing file is only detected when it is read.
    """
    if is_on_hub(name):
        return _from_hub(name)
    if is_remote(name):
        return _from_bucket(name)
    path = local_path(name).absolute()
    if path.is_dir():
        if not (path / WEIGHTS).exists():
            raise InputError(f"The folder {path} has no {WEIGHTS}. Put it there, or name a file.")
        path /= WEIGHTS
    if path.suffix in _PICKLES and path.exists():
        raise InputError(
            f"{path} is not a safetensors file, and a pickle is not read: it may run code. Convert"
            f" it with: python -m apinet_jax convert {path} {path.with_suffix('.safetensors')}"
        )
    config = config_file_of(path)
    return Pretrained(path, str(path), **(_read_config(config) if config.exists() else {}))


def config_file_of(path: AnyPath) -> AnyPath:
    """Return the configuration file of a file of weights, which need not exist."""
    return path.with_name(CONFIG) if path.name == WEIGHTS else path.with_suffix(".json")


def pin_source(name: str, recorded: str | None) -> str:
    """Return the permanent name of the weights of a run, as `Pretrained.source`.

    Args:
        name: As for `find_pretrained`.
        recorded: The permanent name when the run began. A model on the hub stays at that commit.
            Weights with a different name are not downloaded, as they will be refused.

    Raises:
        InputError: As `find_pretrained`.
    """
    if recorded is not None and is_on_hub(name):
        model, _, revision = name.partition("@")
        if recorded.partition("@")[0] != model:
            return name
        if not revision:
            return recorded
    return find_pretrained(name).source


def pixel_statistics(
    architecture: str, mean: Sequence[float], std: Sequence[float], size: int
) -> dict[str, Any]:
    """Return the content of `config.json`, as timm writes it and `find_pretrained` reads it."""
    images = {"mean": list(mean), "std": list(std), "input_size": [3, size, size]}
    return {"architecture": architecture, "pretrained_cfg": images}


def _from_bucket(name: str) -> Pretrained:
    """Copy a file or folder of weights, with the configuration."""
    named = to_path(name)
    folder, path = named, named / WEIGHTS
    if named.suffix:
        folder, path = named.parent, named
    copy = local_copy(str(folder), {path.name, config_file_of(path).name})
    if not (copy / path.name).exists():
        raise InputError(f"{path} does not exist. Check {_OPTION}.")
    return find_pretrained(str(copy / path.name))._replace(source=str(named))


def is_published_on_hub(name: str) -> bool:
    """Return whether a name is of a published network on the hub."""
    return name.startswith(PUBLISHED_HUB)


def fetch_published(name: str) -> Path:
    """Return the folder of `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`, downloaded if needed.

    Raises:
        InputError: The hub does not serve it, or has no such files.
    """
    repository, _, revision = name.removeprefix(PUBLISHED_HUB).partition("@")
    try:
        return _fetch(repository, revision)[1].parent
    except Exception as error:  # of the hub, of its libraries, or of the disk
        raise InputError(_why(error, name, repository, revision or "main")) from error


def _fetch(repository: str, revision: str) -> tuple[Path, Path]:
    """Return configuration and weights of one commit."""
    from huggingface_hub import hf_hub_download, logging

    logging.set_verbosity_error()  # only the last failed attempt is reported
    config = Path(hf_hub_download(repository, CONFIG, revision=revision or None))
    commit = config.parent.name  # so that both files are of one commit
    return config, Path(hf_hub_download(repository, WEIGHTS, revision=commit))


def _from_hub(name: str) -> Pretrained:
    model, _, revision = name.removeprefix(HUB).partition("@")
    repository = f"timm/{model}"
    try:
        config, path = _fetch(repository, revision)
    except Exception as error:  # of the hub, of its libraries, or of the disk
        raise InputError(_why(error, name, repository, revision or "main")) from error
    return Pretrained(path, f"{HUB}{model}@{config.parent.name}", **_read_config(config))


def _why(error: Exception, name: str, repository: str, revision: str) -> str:
    """Explain why the files could not be fetched, and how to get them otherwise."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub import errors as hub

    page = f"{constants.ENDPOINT}/{repository}"
    published = is_published_on_hub(name)
    if isinstance(error, hub.HFValidationError):
        example = f"{PUBLISHED_HUB}OWNER/NAME" if published else f"{_OPTION}={HUB}resnet101.tv_in1k"
        return f"{name} is not the name of a model; for example {example} is."
    if isinstance(error, hub.GatedRepoError):
        return f"{name} is served only to users who accepted its terms: see {page}."
    if isinstance(error, hub.RepositoryNotFoundError):
        listed = f"names are listed at {constants.ENDPOINT}/timm; the part after the point names "
        advice = f"see {page}." if published else f"{listed}the training data."
        return f"The hub has no model {repository}, or you have no access; {advice}"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{repository} has no revision {revision}: see {page}/commits/main."
    offline = constants.HF_HUB_OFFLINE
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(
        error, hub.LocalEntryNotFoundError
    ):
        return (
            f"{repository} has no {WEIGHTS} with a {CONFIG} next to it, and nothing else is read: "
            f"a pickle may run code. See its files at {page}/tree/{revision}."
        )
    cause = error.__cause__ or error
    reason = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"
    folder = Path("weights", repository.partition("/")[2])
    addresses = [hf_hub_url(repository, file, revision=revision) for file in (WEIGHTS, CONFIG)]
    return (
        f"{name} could not be fetched "
        f"({'HF_HUB_OFFLINE is set, and it is not in the cache' if offline else reason}). "
        "Download these two files elsewhere:\n"
        + "".join(f"  {address}\n" for address in addresses)
        + f"Put them into one folder, for example {folder}, and "
        + (f"load that folder: {folder}" if published else f"set {_OPTION}={folder}")
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Return fields of `Pretrained` from timm's configuration."""
    try:
        config = json.loads(path.read_text())
        about = config.get("pretrained_cfg") or config  # older ones are flat
        statistics = {
            name: None if about.get(name) is None else tuple(float(x) for x in about[name])
            for name in STATISTICS
        }
        size = about.get("input_size")
        size = None if size is None else int(size[-1])
        architecture = config.get("architecture")
        if size is not None and not 1 <= size <= _LARGEST:
            raise ValueError(f"images of {size} pixels")
        if not isinstance(architecture, str | None):
            raise ValueError("the architecture is not a name")
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"{path} is not a timm configuration ({error}). {_REPAIR}") from error
    except (OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not a timm configuration. {_REPAIR}") from error
    for name, (demand, least) in STATISTICS.items():
        values = statistics[name]
        if values is not None and not are_pixel_statistics(values, least):
            raise InputError(f"{path} has {name} = {values}, not three numbers {demand}. {_REPAIR}")
    return {**statistics, "size": size, "architecture": architecture}
