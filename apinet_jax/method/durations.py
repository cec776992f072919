"""Conversion of epochs and images to steps."""


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the complete batches in one pass over the training images, `max(1, N // B)`.

    A set smaller than a batch is one step per epoch, in which the sampler repeats images.

    Args:
        num_images: Training images, `N`.
        batch_size: Images of the global batch, `B`.
    """
    return max(1, num_images // batch_size)


def epochs_to_steps(epochs: float, num_images: int, batch_size: int) -> int:
    """Return the steps of `epochs` passes, which may be a fraction, rounded to the nearest.

    Args:
        epochs: Passes over the training images.
        num_images: Training images, `N`.
        batch_size: Images of the global batch, `B`.
    """
    return round(epochs * steps_per_epoch(num_images, batch_size))
