"""`python -m apinet_jax` is `python -m apinet_jax.main`."""

from apinet_jax.main import entry_point

if __name__ == "__main__":
    entry_point()
