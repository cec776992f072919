"""API-Net: mutual vector, gates and attentive features of a pair, on any trunk.

The layers of the head are named as in the authors' program: `map1`, `map2`, `fc`. Equation numbers
are those of `docs/method.md`.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.method.losses import PairLogits
from apinet_jax.models.dropout import Dropout
from apinet_jax.models.layers import Trunk, check_cells, torch_default
from apinet_jax.models.operations import classifier_product

MutualActivation = Literal["none", "relu"]
Mutual = Literal["mlp", "sum", "product", "sq_difference", "own"]
Gates = Literal["mutual", "alone"]
Interaction = Literal["both", "self", "other", "none"]


def gate(mutual: Float[Array, "*P D"], features: Float[Array, "*P D"]) -> Float[Array, "*P D"]:
    """Return the gate of an image: channels that the mutual vector shares (equation 2)."""
    return jax.nn.sigmoid(mutual * features)


def attend(features: Float[Array, "*P D"], gates: Float[Array, "*P D"]) -> Float[Array, "*P D"]:
    """Return the features under residual attention, x + x * g (equation 3)."""
    return features + features * gates


def _uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Return PyTorch's initializer for the bias of a linear layer: uniform in +-1/sqrt(fan_in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _linear(fan_in: int, width: int, **options: Any) -> nn.Dense:
    """Return a linear layer with PyTorch's initial kernel and bias."""
    initial = {"kernel_init": torch_default, "bias_init": _uniform_fan_in(fan_in)}
    return nn.Dense(width, **initial, **options)


class PairLinear(nn.Module):
    """A linear layer on the features of two images side by side, as one product for each image.

    Parameters are those of `nn.Dense`, which would need the features side by side in memory, and
    a product for each pair that an image is in.

    Attributes:
        feature_width: Channels of a feature, `D`.
        width: Channels of the result, `M`.
    """

    feature_width: int
    width: int

    def setup(self) -> None:
        """Define the parameters."""
        rows = 2 * self.feature_width
        self.kernel = self.param("kernel", torch_default, (rows, self.width))
        self.bias = self.param("bias", _uniform_fan_in(rows), (self.width,))

    def first(self, x: Float[Array, "*P D"]) -> Float[Array, "*P M"]:
        """Return the summand of the first image of a pair."""
        product = x @ self.kernel[: self.feature_width]
        return product + jnp.broadcast_to(self.bias, product.shape)

    def second(self, x: Float[Array, "*P D"]) -> Float[Array, "*P M"]:
        """Return the summand of its partner."""
        return x @ self.kernel[self.feature_width :]


class APINet(nn.Module):
    """API-Net: a trunk, the pairwise interaction, and one classifier that all features share.

    Call it on normalised images for their logits, as at test time: single images, no gates. The
    methods `features`, `interact` and `classify` are the parts of a training step. Initialise with
    a batch of images: `APINet(...).init(key, images)`.

    With `interaction="none"` this is the softmax baseline: the same trunk and classifier, without
    pairs. The other switches are the paper's ablations; the defaults are API-Net.

    Attributes:
        trunk: Module from normalised images to a feature map, and to pooled features.
        feature_width: Channels of the pooled features, `D`.
        num_classes: Classes, `C`.
        hidden: Width of the mutual MLP, `M`.
        dropout: Rate inside the MLP and, with separate masks, on every feature that is
            classified in training.
        mutual_activation: `none` (the authors' code) or `relu` between the layers of the MLP.
        mutual: Source of the mutual vector: an MLP on both features (`mlp`), their `sum`,
            `product` or squared difference (`sq_difference`), or each image's `own` feature.
        gates: Whether a gate compares an image with the mutual vector (`mutual`), or is the
            sigmoid of the image's feature, without a partner (`alone`).
        interaction: Features that are classified: those under their own gate (`self`), under the
            partner's gate (`other`), or `both`; `none` for the baseline.
    """

    trunk: Trunk
    feature_width: int
    num_classes: int
    hidden: int = 512
    dropout: float = 0.5
    mutual_activation: MutualActivation = "none"
    mutual: Mutual = "mlp"
    gates: Gates = "mutual"
    interaction: Interaction = "both"

    def setup(self) -> None:
        """Define the layers by name."""
        if self.interaction != "none" and self.gates == "mutual" and self.mutual == "mlp":
            self.map1 = PairLinear(self.feature_width, self.hidden)
            self.map2 = _linear(self.hidden, self.feature_width)
        self.fc = _linear(self.feature_width, self.num_classes, dot_general=classifier_product)
        self.drop = Dropout(self.dropout)

    def features(self, images: Float[Array, "B H W _"], train: bool) -> Float[Array, "B D"]:
        """Return the pooled features of single images, in float32 or wider.

        Args:
            images: Normalised images.
            train: Whether BatchNorm uses the statistics of the batch, and updates the running
                ones.

        Raises:
            InputError: The images are so small that the feature map has no cell.
        """
        return self.trunk.features(images, train)

    def feature_map(
        self, images: Float[Array, "B H W _"], train: bool = False
    ) -> Float[Array, "B h w D"]:
        """Return the feature map of single images whose mean over the cells is their feature.

        Raises:
            InputError: If the images are so small that the feature map has no cell.
        """
        feature_map = self.trunk(images, train)  # [B h w D]
        check_cells(feature_map, images)
        return self.trunk.before_pooling(feature_map)

    def hidden_summands(
        self, features: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B M"], Float[Array, "B M"]] | None:
        """Return what each image adds to the hidden layer of a pair, as its first and second image.

        `None` if the mutual vector does not come from an MLP.
        """
        if self.mutual != "mlp" or self.gates != "mutual":
            return None
        return self.map1.first(features), self.map1.second(features)

    def mutual_vector(
        self,
        x_1: Float[Array, "*P D"],
        x_2: Float[Array, "*P D"],
        train: bool,
        hidden: Float[Array, "*P M"] | None = None,
    ) -> Float[Array, "*P D"]:
        """Return the mutual vector of each pair, from both features (equation 1).

        Args:
            x_1: Pooled features of the first image of each pair.
            x_2: Pooled features of its partner.
            train: Whether dropout is active.
            hidden: Hidden layer of the MLP, if it was summed from `hidden_summands`.
        """
        if self.mutual == "sum":
            return x_1 + x_2
        if self.mutual == "product":
            return x_1 * x_2
        if self.mutual == "sq_difference":
            return jnp.square(x_1 - x_2)
        if hidden is None:
            hidden = self.map1.first(x_1) + self.map1.second(x_2)
        if self.mutual_activation == "relu":
            hidden = nn.relu(hidden)
        return self.map2(self.drop(hidden, train))

    def gate_vectors(
        self,
        x_1: Float[Array, "*P D"],
        x_2: Float[Array, "*P D"],
        train: bool,
        hidden: Float[Array, "*P M"] | None = None,
    ) -> tuple[Float[Array, "*P D"], Float[Array, "*P D"]]:
        """Return the gates of both images of each pair (equation 2); see `mutual_vector`."""
        if self.gates == "alone":
            return jax.nn.sigmoid(x_1), jax.nn.sigmoid(x_2)
        if self.mutual == "own":
            return gate(x_1, x_1), gate(x_2, x_2)
        mutual = self.mutual_vector(x_1, x_2, train, hidden)
        return gate(mutual, x_1), gate(mutual, x_2)

    def interact(
        self,
        x_1: Float[Array, "*P D"],
        x_2: Float[Array, "*P D"],
        train: bool,
        hidden: Float[Array, "*P M"] | None = None,
    ) -> PairLogits:
        """Return the logits of the attentive features of each pair (equations 1 to 5).

        Args:
            x_1: Pooled features of the first image of each pair.
            x_2: Pooled features of its partner.
            train: Whether dropout is active; it then needs the `dropout` random stream.
            hidden: Hidden layer of the MLP, if it was summed from `hidden_summands`.
        """
        gate_1, gate_2 = self.gate_vectors(x_1, x_2, train, hidden)

        def logits(kind: Interaction, x: Float[Array, "*P D"], gates: Float[Array, "*P D"]):
            if self.interaction in (kind, "both"):
                return self.classify(attend(x, gates), train)
            return None

        return PairLogits(
            self_1=logits("self", x_1, gate_1),
            other_1=logits("other", x_1, gate_2),
            self_2=logits("self", x_2, gate_2),
            other_2=logits("other", x_2, gate_1),
        )

    def classify(self, features: Float[Array, "*P D"], train: bool) -> Float[Array, "*P C"]:
        """Return the logits of attentive or plain features (equation 5)."""
        return self.fc(self.drop(features, train))

    def __call__(self, images: Float[Array, "B H W _"], train: bool = False) -> Float[Array, "B C"]:
        """Return the logits of single images without gates, as at test time."""
        features = self.features(images, train)
        if self.is_initializing() and self.interaction != "none":
            self.interact(features, features, train=False)
        return self.classify(features, train)
