"""The options of XLA with which programs are compiled."""

import os

import jax

_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
# All that YNNPACK computes by default, except convolutions.
_WITHOUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
_DISABLED = "xla_disable_hlo_passes"
# Removes the barriers of `lax.optimization_barrier`, and XLA:CPU fuses after it.
_BARRIER_REMOVAL = "cse_barrier_expander"


def compiler_options(platform: str, deterministic: bool = False) -> dict[str, bool | str]:
    """Return the options for programs of a platform, as `jax.jit` takes them.

    On CPUs, XLA keeps the barriers that trunks have against computing the same sums again
    (`stored` in `models/operations.py`). And jaxlib 0.10 gives convolutions to YNNPACK, which
    computes those with up to 128 output channels on one core; Eigen, which convolves otherwise,
    uses all cores. In jaxlib 0.11 YNNPACK does too. A choice in XLA_FLAGS stays.

    Args:
        platform: `cpu`, `gpu` or `tpu`.
        deterministic: Whether every run must compute the same bits; only GPUs have operations that
            differ between runs.
    """
    if platform == "gpu" and deterministic:
        return {"xla_gpu_exclude_nondeterministic_ops": True}
    if platform != "cpu":
        return {}
    options = {_DISABLED: _BARRIER_REMOVAL}
    if jax.__version_info__ < (0, 11):
        options[_LIBRARY] = _WITHOUT_CONVOLUTIONS
    given = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in given}
