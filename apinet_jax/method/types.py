"""Records that the other modules share, and the letters of all shapes.

Dimension vocabulary, used in every signature: `B` images in the global batch, `K` classes in a
batch, `S` images of each class, `P = Q B` pairs of `Q = 2` kinds, `D` feature width, `M` hidden
width of the mutual MLP, `C` classes, `H W` pixels, `h w` feature-map cells, `N` records of a split.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int


class PairIndex(NamedTuple):
    """The partners of each image of the batch.

    Attributes:
        intra: Nearest distinct image of the same class (0 where none exists).
        inter: Nearest image of another class (0 where none exists).
        intra_valid: Whether `intra` is a true partner.
        inter_valid: Whether `inter` is a true partner.
    """

    intra: Int[Array, " B"]
    inter: Int[Array, " B"]
    intra_valid: Bool[Array, " B"]
    inter_valid: Bool[Array, " B"]


class TrainState(NamedTuple):
    """The state of a run between two steps.

    Random streams are functions of (seed, step) and the data position is the step, so neither is
    stored.

    Attributes:
        step: Completed steps.
        params: Trained parameters.
        batch_stats: BatchNorm statistics.
        opt_state: State of the optimizer.
        ema: Moving average of the parameters, or `None`.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any] | None = None

    @property
    def inference_params(self) -> dict[str, Any]:
        """The parameters to classify with: the averaged ones if they exist."""
        return self.params if self.ema is None else self.ema


class StepMetrics(NamedTuple):
    """Metrics of one step, over the global batch.

    Attributes:
        loss: The total that was differentiated.
        cross_entropy: Its first term.
        ranking: Its second term, before the weight.
        top1: Share of rows classified correctly; with pairs, of image 1 under its own gate.
        grad_norm: Euclidean norm of the gradient; not finite if any entry is not.
        pairs: Pairs with a true partner, n.
    """

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    ranking: Float[Array, ""]
    top1: Float[Array, ""]
    grad_norm: Float[Array, ""]
    pairs: Int[Array, ""]
