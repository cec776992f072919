"""Shapes and records that every other module speaks in.

Dimension vocabulary, used in every signature: `B` images in the global batch, `K` classes in a
batch, `S` images of each class, `P = Q B` pairs of `Q = 2` kinds, `D` feature width, `M` hidden
width of the mutual MLP, `C` classes, `H W` pixels, `h w` feature-map cells, `N` records of a split.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int


class PairIndex(NamedTuple):
    """The partners that mining found for each image of the batch.

    Attributes:
        intra: Nearest distinct image of the same class (0 where there is none).
        inter: Nearest image of another class (0 where there is none).
        intra_valid: Whether `intra` holds a true partner.
        inter_valid: Whether `inter` holds a true partner.
    """

    intra: Int[Array, " B"]
    inter: Int[Array, " B"]
    intra_valid: Bool[Array, " B"]
    inter_valid: Bool[Array, " B"]


class TrainState(NamedTuple):
    """Everything that a run carries from one step to the next.

    The random streams are functions of (seed, step) and the data position is the step, so neither
    has to be kept.

    Attributes:
        step: Steps done.
        params: Parameters that are trained.
        batch_stats: BatchNorm statistics.
        opt_state: What the optimizer keeps.
        ema: Moving average of the parameters, where one is kept.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any] | None = None

    @property
    def inference_params(self) -> dict[str, Any]:
        """The parameters to classify with: the averaged ones where there are any."""
        return self.params if self.ema is None else self.ema


class StepMetrics(NamedTuple):
    """What one step reports, over the global batch.

    Attributes:
        loss: The total that was differentiated.
        cross_entropy: Its first term.
        ranking: Its second term, before the weight.
        top1: Share of training rows given their true class; with pairs, image 1 under its own gate.
        grad_norm: Euclidean norm of the gradient; not finite where any entry is not.
        pairs: Pairs with a true partner, n.
    """

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    ranking: Float[Array, ""]
    top1: Float[Array, ""]
    grad_norm: Float[Array, ""]
    pairs: Int[Array, ""]
