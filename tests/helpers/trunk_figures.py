"""Outputs and gradients of the trunks for weights, images and cotangents drawn by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numeric import max_error, named_noise, named_tensor, sample

from apinet_jax.models import TRUNKS, make_trunk
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors

LABELS = np.array([3, 7])


def named_variables(trunk, images):
    """Return the trunk's variables with the weights of the golden figures."""
    shapes = jax.eval_shape(partial(trunk.init, train=False), jax.random.key(0), images)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    tensors = {k: named_tensor(k, v.shape) for k, v in to_torch_tensors(blank).items()}
    return load_torch_tensors(tensors, shapes, classifier_prefixes=())


def map_and_gradient(name, shapes, dtype=jnp.float32, train=False):
    """Yield feature map, gradient and pooled features for named noise of each shape [B H W].

    The gradient is that of the product of the feature map with more named noise. ViTs also have the
    class token.
    """
    trunk, variables = make_trunk(name, dtype), None

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def figures(images, variables, weights):
        more = {}
        if TRUNKS[name].class_token:
            feature_map, more["token"] = trunk.apply(variables, images, method="tokens")
        else:
            feature_map, _ = trunk.apply(variables, images, train, mutable=["batch_stats"])
        pooled = trunk.apply(variables, feature_map, method="before_pooling").mean((1, 2))
        return (feature_map * weights).sum(), {"feature_map": feature_map, "pooled": pooled, **more}

    for shape in shapes:
        images = jnp.asarray(named_noise("images", (*shape, 3)), dtype)
        variables = variables or named_variables(trunk, images)
        cells = jax.eval_shape(partial(trunk.apply, train=False), variables, images).shape
        weights = jnp.asarray(named_noise("cotangent", cells), dtype)
        gradient, more = figures(images, variables, weights)
        yield {"gradient": gradient, **more}


def assert_golden_maps(name, golden, dtype=jnp.float32, most_cases=None):
    """Compare all figures of `map_and_gradient` in evaluation; there is at least one case."""
    cases = sorted({key.rpartition("/")[0] for key in golden if "evaluation" in key})[:most_cases]
    shapes = [tuple(int(number) for number in case.split("/")[0].split("x")) for case in cases]
    with jax.numpy_dtype_promotion("strict"):
        passes = list(map_and_gradient(name, shapes, dtype))
    for case, figures in zip(cases, passes, strict=True):
        for figure in figures:
            tolerance = 1e-3 if figure == "gradient" else 1e-5
            expected = golden.get(f"{case}/{figure}")
            if expected is not None:
                assert max_error(sample(figures[figure]), expected) < tolerance, (case, figure)
    assert cases


def cross_entropy(logits):
    return -jax.nn.log_softmax(logits)[np.arange(2), LABELS].mean()


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def golden_passes(name, golden, dtype=jnp.float32, modes=(False, True)):
    """Yield features, logits, state (in training also the gradient) per mode; then the size."""
    images = jnp.asarray(golden["x"], dtype)
    trunk = make_trunk(name, dtype)
    variables = named_variables(trunk, images)
    (prefix,) = TRUNKS[name].classifier_prefixes
    kernel = named_tensor(f"{prefix}weight", (1000, TRUNKS[name].width)).T
    bias = named_tensor(f"{prefix}bias", (1000,))
    weights = variables, kernel, bias  # arguments: the compilation cache would store constants

    def classify(images, weights, train):
        variables, kernel, bias = weights
        feature_map, state = trunk.apply(variables, images, train, mutable=["batch_stats"])
        features = feature_map.mean((1, 2))
        logits = features @ kernel.astype(dtype) + bias[None].astype(dtype)
        return cross_entropy(logits), (features, logits, state)

    for train in modes:
        function = partial(classify, train=train)
        if train:
            gradient, aux = jax.jit(jax.grad(function, has_aux=True))(images, weights)
            yield *aux, gradient
        else:
            yield jax.jit(function)(images, weights)[1]
    yield count(variables["params"]) + kernel.size + bias.size


def assert_golden_state(state, last_norm, golden):
    """Compare the running statistics after one pass.

    Args:
        state: The updated collections.
        last_norm: Names of the modules that lead to the last BatchNorm.
        golden: The reference.
    """
    norm = state["batch_stats"]
    for module in last_norm:
        norm = norm[module]
    assert max_error(norm["var"], golden["last_running_var"]) < 1e-5
    total = sum(np.asarray(leaf, np.float64).sum() for leaf in jax.tree.leaves(state))
    assert max_error(total, golden["running_sum"]) < 1e-5


def assert_deep_golden(name, last_norm, golden):
    """Compare evaluation in float32, and training in float64.

    In training mode a pre-activation that rounds to the other side of zero flips a ReLU, and a
    hundred layers of BatchNorm over few cells amplify it. The reference was computed in float32
    and has such an error; ours is computed in float64, so that only that error remains.
    """
    with jax.numpy_dtype_promotion("strict"):
        (features, logits, _), params = golden_passes(name, golden, modes=(False,))
        assert max_error(features, golden["eval_features"]) < 1e-5
        assert max_error(logits, golden["eval_logits"]) < 1e-5
        assert params == golden["params"]
        with jax.enable_x64(True):
            (features, logits, state, gradient), _ = golden_passes(
                name, golden, jnp.float64, modes=(True,)
            )
    assert max_error(features, golden["train_features"]) < 2e-5
    assert max_error(logits, golden["train_logits"]) < 1e-5
    assert max_error(gradient, golden["grad_x"]) < 2e-2
    assert_golden_state(state, last_norm, golden)
