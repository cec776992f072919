"""The options of XLA with which programs are compiled."""

import os

import jax

_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
# All that YNNPACK computes by default, except convolutions.
_WITHOUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


def compiler_options(platform: str, deterministic: bool = False) -> dict[str, bool | str]:
    """Return the options for programs of a platform, as `jax.jit` takes them.

    On CPUs, jaxlib 0.10 gives convolutions to YNNPACK, which computes those with up to 128 output
    channels on one core. Eigen, which convolves otherwise, uses all cores. In jaxlib 0.11 YNNPACK
    does too. A choice in XLA_FLAGS stays.

    Args:
        platform: `cpu`, `gpu` or `tpu`.
        deterministic: Whether every run must compute the same bits; only GPUs have operations that
            differ between runs.
    """
    if platform == "gpu" and deterministic:
        return {"xla_gpu_exclude_nondeterministic_ops": True}
    given = _LIBRARY in os.environ.get("XLA_FLAGS", "")
    if platform == "cpu" and not given and jax.__version_info__ < (0, 11):
        return {_LIBRARY: _WITHOUT_CONVOLUTIONS}
    return {}
