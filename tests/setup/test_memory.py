"""Memory that programs need and devices have."""

import jax
import jax.numpy as jnp
import pytest

from apinet_jax.config import default_config
from apinet_jax.setup import memory
from apinet_jax.system.errors import RunError


def compiled(side):
    square = jax.ShapeDtypeStruct((side, side), jnp.float32)
    return jax.jit(lambda x: x @ x).lower(square).compile()


def test_bytes_of_a_program_by_hand():
    """A matrix product reads one square and writes one."""
    assert memory.program_bytes(compiled(256)) == pytest.approx(2 * 256 * 256 * 4, rel=0.2)


def test_options_end_with_all_at_once():
    config = default_config()
    options = memory.memory_saving_options(config, num_devices=8, platform="cpu")
    assert options[0] == {"model.remat": "full"}
    assert not any("model.dtype" in option for option in options)  # saves nothing on CPUs
    assert memory.memory_saving_options(config, num_devices=8, platform="tpu")[:2] == [
        {"model.remat": "full"},
        {"model.dtype": "bfloat16"},
    ]
    assert {"batch.classes": 10} in options
    assert {"data.resize": 384, "data.crop": 320} not in options  # 336 is not a multiple of 32
    assert {"data.resize": 366, "data.crop": 320} in options
    assert {"model.trunk": "resnet18"} in options
    for option in options:
        assert option.get("batch.classes", 30) * 4 % 8 == 0
    assert options[-1] == {
        "model.remat": "full",
        "batch.classes": 10,
        "data.resize": 256,
        "data.crop": 224,
        "model.trunk": "resnet10_w16",
    }
    config.model.pretrained = "weights.safetensors"
    assert not any(
        "model.trunk" in option for option in memory.memory_saving_options(config, 8, "cpu")
    )


@pytest.mark.parametrize(
    ("trunk", "crops"),
    [("vit_base_patch14_dinov2", [336, 224]), ("vit_base_patch16_224", [320, 224])],
)
def test_smaller_crops_are_multiples_of_the_patch(trunk, crops):
    config = default_config()
    config.model.trunk = trunk
    (*options, _) = memory.memory_saving_options(config, num_devices=1, platform="cpu")
    assert [option["data.crop"] for option in options if "data.crop" in option] == crops


def test_only_both_options_fit():
    sides = {"batch.classes": 512, "data.crop": 512}

    def compile_for(changes):
        return compiled(64) if len(changes) == 2 else compiled(*[sides[name] for name in changes])

    options = [{"batch.classes": 10}, {"data.crop": 224}, {"batch.classes": 10, "data.crop": 224}]
    with pytest.raises(RunError) as caught:
        memory.check_fits(2**24, 2**20, options, compile_for)
    text = str(caught.value)
    assert "needs 16 MiB on each device, which has 1 MiB" in text
    assert "batch.classes=10 data.crop=224  (" in text
    assert text.count("batch.classes") == 1


def test_options_that_cannot_be_tried_are_named():
    options = [{"model.remat": "full"}, {"data.resize": 256, "data.crop": 224}]
    with pytest.raises(RunError) as caught:
        memory.check_fits(2**24, 2**20, options, None)
    assert str(caught.value).endswith(
        "Each of these needs less:\n  model.remat=full\n  data.resize=256 data.crop=224"
    )


def test_compiler_without_enough_memory():
    def out_of_memory():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"
        )

    assert memory.compile_unless_too_large(out_of_memory) is None
    with pytest.raises(RunError, match=r"more than the compiler could fit.*Use more devices"):
        memory.check_fits(None, 2**30, [{"batch.classes": 2}], lambda _: None)

    def broken():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory.compile_unless_too_large(broken)
