"""Which pretrained weights `model.pretrained = auto` chooses."""

import pytest

from apinet_jax.models import LISTED_TRUNKS
from apinet_jax.models.weights.catalogue import PUBLISHED
from apinet_jax.setup.weights import choose_weights

GIB = 2**30


@pytest.mark.parametrize(
    ("platform", "gib", "devices", "trunk"),
    [
        ("cpu", 4, 1, "tf_efficientnet_lite0"),
        ("cpu", 200, 1, "tf_efficientnet_lite0"),
        ("gpu", 80, 1, "convnext_base"),
        ("gpu", 8, 1, "convnext_small"),
        ("gpu", 6, 1, "convnext_tiny"),
        ("gpu", 1, 1, "convnext_tiny"),  # nothing fits: smaller batches are tried later
        ("gpu", 6, 4, "convnext_base"),
        ("tpu", 16, 8, "vit_base_patch14_dinov2"),
        ("tpu", 4, 1, "vit_small_patch14_dinov2"),
    ],
)
def test_choice_follows_the_devices(platform, gib, devices, trunk):
    choice = choose_weights(None, platform, devices, gib * GIB)
    assert choice[:2] == (trunk, PUBLISHED[trunk].name)
    assert choice.line.startswith(f"Pretrained weights: {PUBLISHED[trunk].name} (")


def test_cached_features_may_cost_more_on_a_cpu():
    assert choose_weights(None, "cpu", 1, 4 * GIB, cached=True).trunk == "tf_efficientnet_lite2"
    assert choose_weights(None, "gpu", 1, 80 * GIB, cached=True).trunk == "convnext_base"


def test_trunk_of_the_configuration_is_kept():
    choice = choose_weights("densenet161", "cpu", 1, GIB)
    assert choice[:2] == ("densenet161", "timm:densenet161.tv_in1k")
    assert "Apache-2.0 licence" in choice.line
    assert "--config.model.pretrained=none" in choice.line


def test_trunk_without_known_weights_starts_from_nothing_and_says_so():
    choice = choose_weights("resnet10_w16", "cpu", 1, GIB)
    assert choice[:2] == ("resnet10_w16", None)
    assert choice.line.startswith("WARNING: no pretrained weights are known for model.trunk")


def test_published_weights_are_of_known_trunks():
    assert set(PUBLISHED) <= set(LISTED_TRUNKS)
    for trunk, published in PUBLISHED.items():
        assert published.name.startswith(f"timm:{trunk}.")
