"""The objective of a training step: pairs of a batch of features, their loss, and the metrics."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from apinet_jax.data.batch import Batch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.losses import (
    LossTerms,
    Reduction,
    class_contrast,
    cross_entropy,
    pair_loss,
)
from apinet_jax.method.pairs import Choice, Distance, mine_pairs
from apinet_jax.method.types import PairIndex

Method = Literal["apinet", "softmax"]
Kinds = Literal["both", "intra", "inter"]

# Separate the random choice of partners and the dropout of ungated features from the dropout of
# pairs, which uses the key of the step. The drop path has 2.
_PAIRS, _UNGATED = 1, 3


class Objective(NamedTuple):
    """The switches of the objective, explained in `docs/method.md`.

    Attributes:
        method: `apinet`, or `softmax` for the baseline on single images.
        distance: Metric of the pair mining.
        choice: The partner among the candidates.
        kinds: Whether pairs are formed within classes, between classes, or both.
        reduction: `code` or `paper`.
        rank_weight: The paper's lambda.
        rank_margin: The paper's epsilon.
        label_smoothing: Share of each target that is distributed over all classes.
        ungated_weight: Weight of one more cross-entropy, on the ungated features.
        contrast_weight: Weight of the contrast of the two classes of each pair.
        dropout_samples: Dropout masks for each ungated feature.
    """

    method: Method = "apinet"
    distance: Distance = "sq_euclidean"
    choice: Choice = "similar"
    kinds: Kinds = "both"
    reduction: Reduction = "code"
    rank_weight: float = 1.0
    rank_margin: float = 0.05
    label_smoothing: float = 0.0
    ungated_weight: float = 0.0
    contrast_weight: float = 0.0
    dropout_samples: int = 1


def pair_features(
    features: Float[Array, "B D"],
    labels: Int[Array, " B"],
    pairs: PairIndex,
    kinds: Kinds = "both",
) -> tuple[
    Float[Array, "Q B D"],
    Float[Array, "Q B D"],
    Int[Array, "Q B"],
    Int[Array, "Q B"],
    Bool[Array, "Q B"],
]:
    """Gather the P = 2B pairs: row 0 has the intra-class pairs, row 1 the inter-class ones.

    The kind of a pair is a separate axis, so that the batch axis keeps its sharding. Features of
    pairs that do not exist become zero before any non-linearity, so that nothing non-finite can
    reach a gradient through a term that is masked later.

    Args:
        features: Pooled features of the batch.
        labels: True class of each image.
        pairs: Mined partners.
        kinds: `both`, or only one of the two rows.

    Returns:
        Features of both images of each pair, their classes, and whether the pair exists.
    """
    partner, valid = _partners(pairs, kinds)
    keep = valid[..., None]  # [Q B 1]
    x_1 = jnp.where(keep, features[None], 0)  # [Q B D]
    x_2 = jnp.where(keep, features[partner], 0)  # [Q B D]
    return x_1, x_2, jnp.broadcast_to(labels[None], valid.shape), labels[partner], valid


def _partners(pairs: PairIndex, kinds: Kinds) -> tuple[Int[Array, "Q B"], Bool[Array, "Q B"]]:
    """Return the partners of these kinds as rows, and whether they exist."""
    rows = {"both": slice(0, 2), "intra": slice(0, 1), "inter": slice(1, 2)}[kinds]
    partner = jnp.stack([pairs.intra, pairs.inter][rows])  # [Q B]
    return partner, jnp.stack([pairs.intra_valid, pairs.inter_valid][rows])


def evaluate_objective(
    model: APINet,
    params: dict[str, Any],
    features: Float[Array, "B D"],
    batch: Batch,
    objective: Objective,
    key: Key[Array, ""],
) -> tuple[LossTerms, Float[Array, ""], Int[Array, ""]]:
    """Return the loss terms, the training accuracy and the number of valid pairs.

    Args:
        model: The network.
        params: Its parameters; only the head is used.
        features: Pooled features of the batch.
        batch: The batch; its images are not used.
        objective: The switches.
        key: Key of the step.
    """
    variables, smoothing = {"params": params}, objective.label_smoothing

    def classify_ungated(key: Key[Array, ""]) -> tuple[Float[Array, "B C"], Float[Array, ""]]:
        """Return the logits of ungated features, and their cross-entropy."""
        rows, labels = features, batch.label
        if (samples := objective.dropout_samples) > 1:
            rows = jnp.broadcast_to(rows, (samples, *rows.shape))  # [n B D]
            labels = jnp.broadcast_to(labels, rows.shape[:-1])  # [n B]
        rngs = {"dropout": key}
        logits = model.apply(variables, rows, train=True, rngs=rngs, method="classify")
        mean = jnp.mean(cross_entropy(logits, labels, smoothing))
        return (logits if samples == 1 else logits[0]), mean

    if objective.method == "softmax":
        logits, mean = classify_ungated(key)
        terms = LossTerms(mean, mean, jnp.zeros_like(mean))
        top1 = jnp.mean(jnp.argmax(logits, axis=-1) == batch.label, dtype=jnp.float32)
        return terms, top1, jnp.zeros((), jnp.int32)

    scores = None
    if objective.choice == "confused":
        scores = model.apply(variables, features, train=False, method="classify")
    pairs = mine_pairs(
        features,
        batch.label,
        batch.image_id,
        objective.distance,
        objective.choice,
        jax.random.fold_in(key, _PAIRS),
        scores,
    )
    x_1, x_2, labels_1, labels_2, valid = pair_features(
        features, batch.label, pairs, objective.kinds
    )
    hidden = model.apply(variables, features, method="hidden_summands")
    if hidden is not None:  # an image is in several pairs
        partner, _ = _partners(pairs, objective.kinds)
        hidden = jnp.where(valid[..., None], hidden[0][None] + hidden[1][partner], 0)  # [Q B M]
    rngs = {"dropout": key}
    logits = model.apply(
        variables, x_1, x_2, train=True, hidden=hidden, rngs=rngs, method="interact"
    )
    terms = pair_loss(
        logits,
        labels_1,
        labels_2,
        valid,
        margin=objective.rank_margin,
        rank_weight=objective.rank_weight,
        reduction=objective.reduction,
        smoothing=smoothing,
    )
    total = terms.total
    if objective.contrast_weight:
        total += objective.contrast_weight * class_contrast(logits, labels_1, labels_2, valid)
    if objective.ungated_weight:
        total += objective.ungated_weight * classify_ungated(jax.random.fold_in(key, _UNGATED))[1]
    shown = logits.other_1 if logits.self_1 is None else logits.self_1
    num_pairs = jnp.sum(valid, dtype=jnp.int32)
    correct = jnp.sum(valid & (jnp.argmax(shown, axis=-1) == labels_1), dtype=jnp.int32)
    top1 = correct.astype(jnp.float32) / jnp.maximum(num_pairs, 1).astype(jnp.float32)
    return terms._replace(total=total), top1, num_pairs
