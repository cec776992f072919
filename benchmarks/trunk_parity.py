"""Compares trunks with torchvision's or timm's, with weights that follow from the tensors' names.

    pip install -e ".[parity]"
    python -m benchmarks.trunk_parity --trunk densenet121 --shapes 2x70x101
    python -m benchmarks.trunk_parity --trunk vit_base_patch16_224 --shapes 1x224x224 2x64x96

Prints max|ours - theirs| / max|theirs| of the feature map, and of the gradient of its product with
noise in the images; of trunks with BatchNorm also in training mode, of trunks that normalise after
pooling also of the pooled features, and of ViTs also of the class token. `--float64` computes both
sides in double precision, where only real differences remain: in float32 one ReLU that rounding
flips changes the gradient of a deep trunk by a percent. `--write tests/goldens` stores the
original's figures (the gradient in training mode where that differs) for tests that need no torch.
These files come from

    --trunk densenet121 --shapes 2x70x101 --float64
    --trunk vit_base_patch16_224 --shapes 2x64x96 1x224x224
    --trunk vit_base_patch14_dinov2 --shapes 1x56x42
    --trunk vit_base_patch14_reg4_dinov2 --shapes 2x70x112
    --trunk vit_small_patch14_dinov2 --shapes 1x42x28 2x28x56, vit_small_patch14_reg4_dinov2 too
    --trunk vit_large_patch14_dinov2 --shapes 1x28x42 1x56x28, vit_large_patch14_reg4_dinov2 too
    --trunk vit_small_patch16_dinov3 --shapes 1x48x32 2x32x64, vit_base_patch16_dinov3 too
    --trunk convnext_tiny --shapes 1x77x70 --float64
    --trunk test_convnext --shapes 2x77x70 --float64
    --trunk swin_tiny_patch4_window7_224 --shapes 1x64x96 --float64
    --trunk test_swin --shapes 1x32x240 --float64
    --trunk tf_efficientnet_lite0 --shapes 1x33x44 --float64      # lite1 to lite4 too
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from apinet_jax.models import LISTED_TRUNKS, TRUNKS
from apinet_jax.models.vit import resample

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from numeric import max_error, named_noise, named_tensor, sample
from trunk_figures import map_and_gradient

if TYPE_CHECKING:
    import torch


# Small models of the same code, for fast tests.
SMALL = {
    "test_convnext": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)}),
    "test_swin": (
        "swin_tiny_patch4_window7_224",
        {"depths": (2, 1, 1, 2), "num_heads": (1, 2, 4, 8), "embed_dim": 8},
    ),
}


def from_timm(name: str, **options: Any) -> torch.nn.Module:
    """Return a timm model, or a small one."""
    import timm

    name, sizes = SMALL.get(name, (name, {}))
    return timm.create_model(name, **sizes, **options)


def original(name: str) -> tuple[torch.nn.Module, Callable]:
    """Return a model, and its function from images to feature map, both NCHW."""
    import torch
    import torchvision
    from timm.models.swin_transformer import checkpoint_filter_fn

    if "convnext" in name:
        model = from_timm(name, num_classes=0)
        features = model.forward_features
    elif "swin" in name:
        model = from_timm(name)  # by its classifier timm recognises the names

        def features(images: torch.Tensor) -> torch.Tensor:
            sized = from_timm(name, img_size=images.shape[2:])
            sized.load_state_dict(checkpoint_filter_fn(model.state_dict(), sized))
            return sized.to(images.dtype).eval().forward_features(images).permute(0, 3, 1, 2)

    elif name.startswith("vit"):
        model = from_timm(name, num_classes=0, dynamic_img_size=True)

        def features(images: torch.Tensor) -> torch.Tensor:
            tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
            h, w = (side // TRUNKS[name].patch for side in images.shape[2:])
            return tokens.mT.reshape(len(images), -1, h, w)

    elif name.startswith("tf_efficientnet"):
        model = from_timm(name)
        features = model.forward_features
    else:
        model = torchvision.models.get_model(name)
        if name.startswith("resnet"):
            features = torch.nn.Sequential(*list(model.children())[:-2])  # no pool, no classifier
        elif name.startswith("densenet"):

            def features(images: torch.Tensor) -> torch.Tensor:
                return torch.relu(model.features(images))

        else:
            features = model.features
    return model, features


def original_figures(
    model: torch.nn.Module, features: Callable, shape: tuple[int, ...], train: bool
) -> dict[str, np.ndarray]:
    """Return what `map_and_gradient` should; the dtype is that of the model's parameters."""
    import torch

    with torch.no_grad():  # before each pass, as training changes the running statistics
        for key, tensor in model.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                tensor.copy_(torch.from_numpy(named_tensor(key, tuple(tensor.shape))))
    dtype = next(model.parameters()).dtype
    images = torch.tensor(named_noise("images", (*shape, 3)), dtype=dtype, requires_grad=True)
    model.train(train)
    feature_map = features(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    weights = torch.tensor(named_noise("cotangent", tuple(feature_map.shape)), dtype=dtype)
    (gradient,) = torch.autograd.grad((feature_map * weights).sum(), images)
    figures = {"feature_map": feature_map.detach().numpy(), "gradient": gradient.numpy()}
    if "head.norm.weight" in model.state_dict():  # normalised after pooling
        maps = feature_map.detach().permute(0, 3, 1, 2)
        figures["pooled"] = model.forward_head(maps, pre_logits=True).detach().numpy()
    if "cls_token" in model.state_dict():
        figures["token"] = model.forward_features(images.permute(0, 3, 1, 2))[:, 0].detach().numpy()
    return figures


def resampled_positions(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return a grid of noise that timm resamples to fewer and more cells."""
    import torch
    from timm.layers import resample_abs_pos_embed

    side, _ = model.patch_embed.grid_size
    grid = named_noise("grid", (side, side, 2)).astype(np.float32)
    flat = torch.from_numpy(grid).reshape(1, -1, 2)
    golden = {}
    for h, w in ((side - 1, side // 4), (side + 1, 2 * side)):
        theirs = resample_abs_pos_embed(flat, [h, w], num_prefix_tokens=0).reshape(h, w, 2).numpy()
        error = max_error(resample(jnp.asarray(grid), (h, w)), theirs)
        print(f"position embeddings from {side}x{side} to {h}x{w}: {error:.1e}")
        golden[f"positions/{h}x{w}"] = theirs
    return golden


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    trunks = sorted({*LISTED_TRUNKS, *SMALL} - {"resnet10_w16"})
    parser.add_argument("--trunk", required=True, choices=trunks)
    parser.add_argument("--shapes", nargs="+", required=True, help="images x height x width")
    parser.add_argument("--float64", action="store_true", help="both sides in double precision")
    parser.add_argument("--write", type=Path, help="folder for the original's figures")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", arguments.float64)
    dtype = jnp.float64 if arguments.float64 else jnp.float32

    model, features = original(arguments.trunk)
    if arguments.float64:
        model.double()
    names = list(model.state_dict())
    has_statistics = any(name.endswith("running_var") for name in names)
    golden = {"keys": np.array(names), "params": sum(p.numel() for p in model.parameters())}
    shapes = [tuple(int(number) for number in text.split("x")) for text in arguments.shapes]
    for train in (False, True) if has_statistics else (False,):
        passes = map_and_gradient(arguments.trunk, shapes, dtype, train)
        for text, shape, ours in zip(arguments.shapes, shapes, passes, strict=True):
            case = f"{text}/{'training' if train else 'evaluation'}"
            theirs = original_figures(model, features, shape, train)
            errors = (f"{name} {max_error(ours[name], theirs[name]):.1e}" for name in theirs)
            print(f"{arguments.trunk} {dtype.__name__} {case}:", ", ".join(errors), flush=True)
            if train != has_statistics:
                del theirs["gradient"]
            for figure, values in theirs.items():
                fits = np.abs(values).max() <= np.finfo(np.float16).max
                kept = np.float16 if figure == "gradient" and fits else np.float32
                golden[f"{case}/{figure}"] = sample(values).astype(kept)
    if "pos_embed" in names:
        golden |= resampled_positions(model)
    if arguments.write:
        np.savez_compressed(arguments.write / f"{arguments.trunk}.npz", **golden)


if __name__ == "__main__":
    main()
