"""What a service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PHOTOS = (1, 2, 4, 8, 16)


class Measures:
    """Counters of one service."""

    def __init__(self) -> None:
        """Start at zero."""
        self._registry = CollectorRegistry()
        shared = {"registry": self._registry, "namespace": "apinet_jax"}
        self.requests = Counter("requests", "Requests.", ["path", "status"], **shared)
        self.seconds = Histogram(
            "request_seconds", "Time to answer a request.", ["path"], buckets=_SECONDS, **shared
        )
        self.waiting = Gauge("requests_waiting", "Requests that are answered or wait.", **shared)
        self.batch_photos = Histogram(
            "batch_photos", "Photos in a batch.", buckets=_PHOTOS, **shared
        )
        self.batch_seconds = Histogram(
            "batch_seconds", "Time of a batch in the network.", buckets=_SECONDS, **shared
        )

    def observe_batch(self, photos: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_photos.observe(photos)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self._registry)
