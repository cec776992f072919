"""Foreign weights fill a trunk completely or are refused."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import named_tensor
from safetensors.numpy import save_file
from tiny_runs import config_for

from apinet_jax.models import TRUNKS, variable_shapes
from apinet_jax.models.weights.files import read_safetensors
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors, torch_shapes
from apinet_jax.system.errors import InputError
from apinet_jax.training import train

CLASSIFIER = ("fc.",)


@pytest.fixture(scope="module")
def variables():
    return variable_shapes("resnet10_w16")


@pytest.fixture
def tensors(variables):
    return {name: named_tensor(name, shape) for name, shape in torch_shapes(variables).items()}


def test_torch_names_and_shapes():
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params = {
        "conv1": {"kernel": leaf(7, 5, 3, 16)},
        "layer1.0": {"bn1": {"scale": leaf(16), "bias": leaf(16)}},
        "head": {"kernel": leaf(8, 4)},
        "pos_embed": leaf(1, 9, 8),
    }
    batch_stats = {"layer1.0": {"bn1": {"mean": leaf(16), "var": leaf(16)}}}
    assert torch_shapes({"params": params, "batch_stats": batch_stats}) == {
        "conv1.weight": (16, 3, 7, 5),
        "layer1.0.bn1.weight": (16,),
        "layer1.0.bn1.bias": (16,),
        "head.weight": (4, 8),
        "pos_embed": (1, 9, 8),
        "layer1.0.bn1.running_mean": (16,),
        "layer1.0.bn1.running_var": (16,),
    }


def test_round_trip_through_a_file(tensors, variables, tmp_path):
    extra = {
        "fc.weight": np.zeros((5, 128), np.float32),
        "bn1.num_batches_tracked": np.array(7),
    }
    contiguous = {name: np.ascontiguousarray(t) for name, t in {**tensors, **extra}.items()}
    save_file(contiguous, tmp_path / "weights.safetensors")

    loaded = load_torch_tensors(
        read_safetensors(tmp_path / "weights.safetensors"), variables, CLASSIFIER
    )
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded))
    back = to_torch_tensors(loaded)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_layout_and_names(tensors, variables):
    loaded = load_torch_tensors(tensors, variables, CLASSIFIER)
    block, statistics = loaded["params"]["layer2.0"], loaded["batch_stats"]["layer2.0"]
    kernel = tensors["layer2.0.conv1.weight"]  # [32 16 3 3]
    np.testing.assert_array_equal(block["conv1"]["kernel"][1, 2, 3, 4], kernel[4, 3, 1, 2])
    np.testing.assert_array_equal(
        block["downsample.1"]["scale"], tensors["layer2.0.downsample.1.weight"]
    )
    np.testing.assert_array_equal(
        statistics["downsample.1"]["var"], tensors["layer2.0.downsample.1.running_var"]
    )


def test_one_error_lists_all_differences(tensors, variables):
    del tensors["layer1.0.bn2.running_var"]
    tensors["layer5.0.conv1.weight"] = np.zeros((1,), np.float32)
    tensors["conv1.weight"] = tensors["conv1.weight"][:8]
    with pytest.raises(InputError) as caught:
        load_torch_tensors(tensors, variables, CLASSIFIER)
    message = str(caught.value)
    assert "1 missing: layer1.0.bn2.running_var" in message
    assert "1 unexpected: layer5.0.conv1.weight" in message
    assert "conv1.weight (8, 3, 7, 7) instead of (16, 3, 7, 7)" in message


def test_classifier_of_another_model_is_unexpected(tensors, variables):
    tensors["classifier.1.weight"] = np.zeros((5, 128), np.float32)
    with pytest.raises(InputError, match=r"unexpected: classifier\.1\.weight"):
        load_torch_tensors(tensors, variables, CLASSIFIER)


def test_long_lists_are_truncated(variables):
    with pytest.raises(InputError, match=r"missing: .*… \(\d+ in all\)") as caught:
        load_torch_tensors({}, variables, CLASSIFIER)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("trunk", [None, "resnet10_w16", "resnet18"])
def test_weights_are_checked_before_the_data(trunk, tmp_path):
    config = config_for(tmp_path / "photos that are not there", model__trunk=trunk)
    config.model.pretrained = str(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"Cannot read the weights .*w\.safetensors: No such file"):
        train(config, tmp_path / "run")
    save_file({"encoder.weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors.*(encoder\.weight|none of the trunks)"):
        train(config, tmp_path / "run")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors.*Check the path"):
        read_safetensors(tmp_path / "none.safetensors")


def test_folder_instead_of_file(tmp_path):
    with pytest.raises(InputError, match="Cannot read"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_corrupt_file(damage, tensors, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"conv1.weight": tensors["conv1.weight"].copy()}, path)
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[:-100], "foreign": b"PK\x03\x04 a zip file" * 9, "empty": b""}[damage]
    )
    with pytest.raises(InputError, match=r"not a complete safetensors file.*apinet_jax convert"):
        read_safetensors(path)


def test_number_type_unknown_to_numpy(tmp_path):
    about = {"conv1.weight": {"dtype": "F8_E4M3", "shape": [2, 3], "data_offsets": [0, 6]}}
    header = json.dumps(about).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(6))
    with pytest.raises(InputError, match=r"weights\.safetensors .*store them as float32"):
        read_safetensors(path)


def test_shared_squeezenet_weights_load_strictly(shared_dir):
    path = shared_dir / "weights" / "squeezenet1_1_imagenet_notop.safetensors"
    if not path.exists():
        pytest.skip("the ImageNet weights of SqueezeNet are not available")
    tensors = read_safetensors(path)
    loaded = load_torch_tensors(
        tensors, variable_shapes("squeezenet1_1"), TRUNKS["squeezenet1_1"].classifier_prefixes
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(loaded)) == 722_496
