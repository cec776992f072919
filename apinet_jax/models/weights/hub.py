"""Where pretrained weights lie: a file, a folder, or a model of timm's on the Hugging Face hub.

Weights are read from safetensors and never from a pickle, which may run code. What their images
were normalised by lies beside them, in timm's `config.json`.
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
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_OPTION = "--config.model.pretrained"
_REPAIR = "Fetch it again, or take it away and set --config.model.mean and --config.model.std."
_LARGEST = 10_000  # pixels a side of what anybody trains on
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")

Statistics = tuple[float, float, float]


class Pretrained(NamedTuple):
    """Weights that are there to be read.

    Attributes:
        path: The safetensors file.
        source: What names the same file from any folder and at any time: its absolute path,
            `gs://BUCKET/...` or `timm:NAME@COMMIT`.
        mean: Mean of each channel of the images it was trained on, of pixels in [0, 1], where its
            configuration says so.
        std: Their standard deviation.
        size: Side of those images.
        architecture: What timm calls the model.
    """

    path: Path
    source: str
    mean: Statistics | None = None
    std: Statistics | None = None
    size: int | None = None
    architecture: str | None = None


def is_on_hub(name: str) -> bool:
    """Whether `model.pretrained` names a model of the hub and no file."""
    return name.startswith(HUB)


def find_pretrained(name: str) -> Pretrained:
    """Finds weights, fetching them where they lie on the hub and not in its cache yet.

    Args:
        name: `timm:NAME`, which is the repository `timm/NAME` of the hub, or `timm:NAME@REVISION`;
            a safetensors file, whose configuration may lie beside it as `NAME.json`; or a folder
            with `model.safetensors` and `config.json`, as the hub has them. File and folder may lie
            in a bucket, and are copied.

    Raises:
        InputError: If there are no such weights, they are a pickle, the hub does not hand them out,
            or their configuration cannot be read. A file that is not there is found missing when it
            is read.
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
            f"{path} is no safetensors file, and a pickle is not read: it may run code. Make one of"
            f" it with: python -m apinet_jax convert {path} {path.with_suffix('.safetensors')}"
        )
    beside = config_file_of(path)
    return Pretrained(path, str(path), **(_read_config(beside) if beside.exists() else {}))


def config_file_of(path: AnyPath) -> AnyPath:
    """Where the configuration of a file of weights lies, as the hub has it or under their name."""
    return path.with_name(CONFIG) if path.name == WEIGHTS else path.with_suffix(".json")


def pin_source(name: str, recorded: str | None) -> str:
    """What names the weights of a run from any folder and at any time.

    Args:
        name: As for `find_pretrained`.
        recorded: What this returned when the run began, which a model of the hub keeps to whatever
            has been uploaded since. Weights of another name are not fetched only to be refused.

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
    """What `config.json` says of weights, as timm writes it and `find_pretrained` reads it."""
    images = {"mean": list(mean), "std": list(std), "input_size": [3, size, size]}
    return {"architecture": architecture, "pretrained_cfg": images}


def _from_bucket(name: str) -> Pretrained:
    """Copies a file with its configuration, or what the hub's folders have."""
    named = to_path(name)
    folder, path = named, named / WEIGHTS
    if named.suffix:
        folder, path = named.parent, named
    copy = local_copy(str(folder), {path.name, config_file_of(path).name})
    if not (copy / path.name).exists():
        raise InputError(f"There are no weights {path}. Check {_OPTION}.")
    return find_pretrained(str(copy / path.name))._replace(source=str(named))


def _from_hub(name: str) -> Pretrained:
    from huggingface_hub import hf_hub_download, logging

    logging.set_verbosity_error()  # of attempts that failed, the last one is told
    model, _, revision = name.removeprefix(HUB).partition("@")
    repository = f"timm/{model}"
    try:
        config = Path(hf_hub_download(repository, CONFIG, revision=revision or None))
        commit = config.parent.name  # so that both files are of one commit
        path = Path(hf_hub_download(repository, WEIGHTS, revision=commit))
    except Exception as error:  # the hub's, of the library under it, or the disk's
        raise InputError(_why(error, name, repository, revision or "main")) from error
    return Pretrained(path, f"{HUB}{model}@{commit}", **_read_config(config))


def _why(error: Exception, name: str, repository: str, revision: str) -> str:
    """Says why the hub's files are not there, and how else to come by them."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub import errors as hub

    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, hub.HFValidationError):
        return f"{name} is not the name of a model: {_OPTION}={HUB}resnet101.tv_in1k would be one."
    if isinstance(error, hub.GatedRepoError):
        return f"{name} is handed out only to those who accepted its terms: see {page}."
    if isinstance(error, hub.RepositoryNotFoundError):
        return (
            f"The hub has no model {repository}, or not for you. Its names are listed at "
            f"{constants.ENDPOINT}/timm; the part behind the point says what it was trained on."
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{repository} has no revision {revision}: see {page}/commits/main."
    offline = constants.HF_HUB_OFFLINE
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(
        error, hub.LocalEntryNotFoundError
    ):
        return (
            f"{repository} has no {WEIGHTS} with a {CONFIG} beside it, and nothing else is read: a "
            f"pickle may run code. See {page}/tree/{revision} for what there is."
        )
    cause = error.__cause__ or error
    reason = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"
    folder = Path("weights", repository.partition("/")[2])
    addresses = [hf_hub_url(repository, file, revision=revision) for file in (WEIGHTS, CONFIG)]
    return (
        f"{name} could not be fetched "
        f"({'HF_HUB_OFFLINE is set, and it is not in the cache' if offline else reason}). "
        "Fetch these two elsewhere:\n"
        + "".join(f"  {address}\n" for address in addresses)
        + f"put them into one folder, {folder} for instance, and name it: {_OPTION}={folder}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    """What timm's configuration says of the images: fields of `Pretrained`."""
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
            raise ValueError("an architecture without a name")
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"{path} is not a configuration of timm's ({error}). {_REPAIR}") from error
    except (OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not a configuration of timm's. {_REPAIR}") from error
    for name, (demand, least) in STATISTICS.items():
        values = statistics[name]
        if values is not None and not are_pixel_statistics(values, least):
            raise InputError(f"{path} has {name} = {values}, not three numbers {demand}. {_REPAIR}")
    return {**statistics, "size": size, "architecture": architecture}
