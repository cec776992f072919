"""A folder as the Hugging Face hub wants it: weights, configuration and a model card.

The weights have torch's names and layout, so programs without JAX can read them too. What this
project needs besides is in `config.json`, and `apinet_jax.load` reads the folder back.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from apinet_jax.answers.report.gather import Report, make_report
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.models.weights.hub import CONFIG, WEIGHTS, is_on_hub, pixel_statistics
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.system.errors import InputError, explain_failed_writes
from apinet_jax.system.paths import write_atomically
from apinet_jax.trained_network import PUBLISHED

CARD = "README.md"
_PAIRS = 10  # of the model card
_PRIVATE = ("data.dir", "data.manual_dir")  # paths of this machine


def write_hub_folder(run: TrainedRun, folder: Path, licence: str | None) -> list[str]:
    """Write weights, configuration and model card.

    Args:
        run: The run.
        folder: The folder to write; it is created.
        licence: The identifier of the licence on the hub, as `mit`; `None` if it is not known.

    Returns:
        What is missing in it, and why.

    Raises:
        InputError: If the folder has files.
        RunError: If a file cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already, and is not empty. Choose another folder.")
    network, missing = run.network, []
    pairs, report = None, None
    try:
        pairs = run.pair_calibration._asdict()
    except InputError as error:
        missing.append(f"`compare` gives no probabilities: {error}")
    try:
        report = make_report(run, audit=False)
    except InputError as error:
        missing.append(f"The model card has no figures: {error}")
    config = network.config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict.fromkeys(_PRIVATE))
    if config.model.pretrained and not is_on_hub(config.model.pretrained):
        config.model.pretrained = None  # a path of this machine
    mean, std, _ = network.preprocess
    about = {
        **pixel_statistics(config.model.trunk, mean, std, config.data.crop),
        PUBLISHED: {
            "class_names": network.class_names,
            "step": network.step,
            "temperature": network.temperature,
            "checkpoint": network.hash,  # of the run; that of this folder is its weights'
            "fingerprint": network.fingerprint,
            "version": run.provenance.version,
            "pairs": pairs,
            "config": config.to_dict(),
        },
    }
    tensors = to_torch_tensors(network.variables)
    weights = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    part = folder.with_name(f"{folder.name}.part")  # an interrupted export leaves only this
    with explain_failed_writes(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_atomically(part / CARD, model_card(run, report, licence))
        write_atomically(part / CONFIG, json.dumps(about, indent=2) + "\n")
        write_atomically(part / WEIGHTS, weights)
        part.replace(folder)
    return missing


def model_card(run: TrainedRun, report: Report | None, licence: str | None) -> str:
    """Return the model card: what the network is for, and how well it was measured to do it."""
    method = "API-Net" if run.has_gates else "softmax"
    classes, config = len(run.class_names), run.config
    header: dict[str, Any] = {
        "library_name": "apinet_jax",
        "pipeline_tag": "image-classification",
        "license": licence or "unknown",
        "tags": ["fine-grained-image-classification", "jax", "flax"],
    }
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---", ""]
    lines += [
        f"# {classes} classes, {config.model.trunk}",
        "",
        f"A fine-grained image classifier ({method}) with the trunk {config.model.trunk}, for "
        f"photos of {config.data.crop} x {config.data.crop} pixels.",
        "",
        "    import apinet_jax",
        '    model = apinet_jax.load("FOLDER")  # or "hf:OWNER/NAME"',
        '    model.predict(["photo.jpg"])',
        "",
        "## Intended use",
        "",
        f"To name photos that show one of the {classes} classes listed below, taken like the "
        "training photos. It always names one of them, also where a photo shows none. "
        "Probabilities are only as good as the calibration stated below. It was not evaluated on "
        "other photos.",
        "",
        "## Figures",
        "",
        *(_figures(run, report) if report else ["None were measured."]),
        "",
        "## Licence",
        "",
        licence
        or "Not stated. It depends on the training photos and on the pretrained weights; state it "
        "before you publish this folder.",
        "",
        f"Pretrained weights: {_weights(config.model.pretrained)}.",
        "",
        "## Classes",
        "",
        ", ".join(_plain(name) for name in run.class_names),
        "",
        f"Checkpoint {run.provenance.hash}, step {run.step:,}, apinet_jax "
        f"{run.provenance.version}.",
        "",
    ]
    return "\n".join(lines)


def _figures(run: TrainedRun, report: Report) -> list[str]:
    figures, names = report.headline, [_plain(name) for name in run.class_names]
    low, high = (100 * end for end in figures.interval)
    lines = [
        f"On {figures.images:,} {report.bank.split} images, which it was not trained on:",
        "",
        "| figure | value |",
        "|---|---|",
        f"| top-1 | {100 * figures.top1:.1f} % (95 % interval {low:.1f} to {high:.1f}) |",
        f"| top-5 | {100 * figures.top5:.1f} % |",
        f"| mean over classes | {100 * figures.macro:.1f} % |",
        f"| expected calibration error | {100 * figures.ece_scaled:.1f} % |",
        "",
        "Classes that are confused most often:",
        "",
        "| class | other class | mistakes |",
        "|---|---|---|",
    ]
    pairs = report.pairs[:_PAIRS]
    return lines + [f"| {names[a]} | {names[b]} | {count} |" for a, b, count, *_ in pairs]


def _weights(pretrained: str | None) -> str:
    if not pretrained:
        return "none"
    return f"`{pretrained}`" if is_on_hub(pretrained) else f"`{Path(pretrained).name}`"


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would interpret in the name of a class."""
    text = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)
