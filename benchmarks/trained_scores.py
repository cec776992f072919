"""Scores of pairs of photos, trained to find the class of a photo among a few candidates."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from apinet_jax.answers.pairs.scores import GATED
from apinet_jax.method.interaction import APINet

CANDIDATES, PHOTOS_AT_ONCE, STEPS = 5, 24, 400

PairScore = Callable[..., Float[Array, " P"]]
"""Scores of pairs [P 2] of photos, from parameters, inputs, the pairs and a key for dropout."""


class CrossAttention(nn.Module):
    """Cells of one photo, updated from those of another one."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, own: Float[Array, "P T W"], other: Float[Array, "P T W"]) -> Array:
        """Return the updated cells of the first photo."""
        norm = nn.LayerNorm()
        own = own + nn.MultiHeadAttention(self.heads)(norm(own), norm(other))
        hidden = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(own)))
        return own + nn.Dense(self.width)(hidden)


class Comparator(nn.Module):
    """Whether two photos show one class, by attention between their feature maps.

    Attributes:
        width: Channels of the projected cells.
        heads: Attention heads.
        layers: Attention layers, shared by both photos.
        dropout: Rate on the projected cells.
    """

    width: int = 128
    heads: int = 4
    layers: int = 2
    dropout: float = 0.2

    @nn.compact
    def __call__(
        self, maps: Float[Array, "B T D"], pairs: Int[Array, "P 2"], train: bool
    ) -> Float[Array, " P"]:
        """Return the score of each pair of photos; the order of the two does not matter."""
        cells = nn.LayerNorm()(nn.Dense(self.width)(maps))
        shape = (1, *cells.shape[1:])
        cells = cells + self.param("places", nn.initializers.normal(0.02), shape)
        cells = nn.Dropout(self.dropout, deterministic=not train)(cells)
        first, second = cells[pairs[:, 0]], cells[pairs[:, 1]]
        for _ in range(self.layers):
            layer = CrossAttention(self.width, self.heads)
            first, second = layer(first, second), layer(second, first)
        first, second = first.mean(axis=1), second.mean(axis=1)
        alike = jnp.concatenate([jnp.abs(first - second), first * second], axis=1)
        return nn.Dense(1)(nn.gelu(nn.Dense(self.width)(alike)))[:, 0]


def agreement(
    model: APINet, params: Any, features: Float[Array, "B D"], pairs: Int[Array, "P 2"], key: Any
) -> Float[Array, " P"]:
    """Return the log-probability that both photos are of one class, under the gates of both.

    As `compare` computes it, but in a form that can be trained.
    """
    x_1, x_2 = features[pairs[:, 0]], features[pairs[:, 1]]

    def interact(x_1: Array, x_2: Array, key: Any) -> tuple[Array, Array]:
        options = {"train": key is not None, "method": "interact"}
        rngs = None if key is None else {"dropout": key}
        found = model.apply({"params": params}, x_1, x_2, rngs=rngs, **options)
        return found.self_1 + found.other_1, found.self_2 + found.other_2

    keys = (None, None) if key is None else jax.random.split(key)
    there, back = interact(x_1, x_2, keys[0]), interact(x_2, x_1, keys[1])
    logits = (there[0] + back[1]) / 4, (there[1] + back[0]) / 4
    both = sum(jax.nn.log_softmax(rows / GATED) for rows in logits)
    return jax.scipy.special.logsumexp(both, axis=1)


def batch_pairs() -> Int[np.ndarray, "P 2"]:
    """Return the pairs of a batch in which each photo is followed by its exemplars."""
    rows = np.arange(PHOTOS_AT_ONCE * (1 + CANDIDATES)).reshape(PHOTOS_AT_ONCE, -1)
    return np.stack([np.repeat(rows[:, 0], CANDIDATES), rows[:, 1:].ravel()], axis=1)


def train_score(
    score: PairScore,
    params: Any,
    inputs: Float[np.ndarray, "N ..."],
    rows: Int[np.ndarray, " N"],
    exemplars: Int[np.ndarray, "N K"],
    lr: float,
    seed: int,
) -> Any:
    """Return parameters with which a photo's own class has the highest score of its candidates.

    Args:
        score: The score of a pair.
        params: Parameters to start from.
        inputs: What the score needs of each photo.
        rows: Photos to train on.
        exemplars: Their exemplars, that of the true class first.
        lr: Highest learning rate of AdamW.
        seed: Seed of the order and of dropout.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, STEPS // 10, STEPS)
    optimizer = optax.adamw(schedule, weight_decay=0.05)
    pairs = batch_pairs()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Array, key: Array) -> tuple[Any, Any]:
        def loss(params: Any) -> Array:
            scores = score(params, batch, pairs, key).reshape(PHOTOS_AT_ONCE, CANDIDATES)
            return -jax.nn.log_softmax(scores)[:, 0].mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    random, key = np.random.default_rng(seed), jax.random.key(seed)
    params = jax.tree.map(jnp.array, params)  # a copy: the step reuses their memory
    state, order = optimizer.init(params), np.zeros(0, int)
    for number in range(STEPS):
        if len(order) < PHOTOS_AT_ONCE:
            order = random.permutation(len(rows))
        chosen, order = order[:PHOTOS_AT_ONCE], order[PHOTOS_AT_ONCE:]
        photos = np.concatenate([rows[chosen, None], exemplars[chosen]], axis=1).ravel()
        batch = jnp.asarray(inputs[photos], jnp.float32)
        params, state = step(params, state, batch, jax.random.fold_in(key, number))
    return params


def apply_score(
    score: PairScore,
    params: Any,
    photos: Float[np.ndarray, "M ..."],
    known: Float[np.ndarray, "N ..."],
    exemplars: Int[np.ndarray, "M K"],
) -> Float[np.ndarray, "M K"]:
    """Return the score of each photo with each of its exemplars."""
    pairs = batch_pairs()
    compiled = jax.jit(lambda params, batch: score(params, batch, pairs, None))
    parts = []
    for start in range(0, len(photos), PHOTOS_AT_ONCE):
        rows = np.minimum(np.arange(start, start + PHOTOS_AT_ONCE), len(photos) - 1)
        batch = np.concatenate([photos[rows, None], known[exemplars[rows]]], axis=1)
        batch = batch.reshape(-1, *photos.shape[1:])
        parts.append(np.asarray(compiled(params, jnp.asarray(batch, jnp.float32))))
    return np.concatenate(parts).reshape(-1, CANDIDATES)[: len(photos)]
