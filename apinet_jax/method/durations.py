"""The one place where epochs and images become steps."""


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Whole batches in one pass over the training images.

    A set smaller than one batch still makes one step an epoch: the sampler then repeats images.

    Args:
        num_images: Training images, `N`.
        batch_size: Images of the global batch, `B`.

    Returns:
        `max(1, N // B)`.
    """
    return max(1, num_images // batch_size)


def epochs_to_steps(epochs: float, num_images: int, batch_size: int) -> int:
    """Steps of `epochs` passes, rounded to the nearest whole step; fractions of an epoch are fine.

    Args:
        epochs: Passes over the training images.
        num_images: Training images, `N`.
        batch_size: Images of the global batch, `B`.

    Returns:
        The number of steps.
    """
    return round(epochs * steps_per_epoch(num_images, batch_size))
