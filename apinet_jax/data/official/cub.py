"""CUB-200-2011: 200 species of birds."""

from collections.abc import Mapping

from apinet_jax.data.official.archive import Files
from apinet_jax.data.official.base import Official, manual_steps
from apinet_jax.data.official.download import Archive
from apinet_jax.data.official.lists import read_id_lists
from apinet_jax.data.records.scan import Scan

_PAGE = "https://data.caltech.edu/records/65de6-vp158"
_FOLDER = "CUB_200_2011"
# Address, size and checksum: tensorflow/datasets, url_checksums/caltech_birds2011.txt.
_ARCHIVE = Archive(
    "CUB_200_2011.tgz",
    _FOLDER,
    _PAGE,
    url=f"{_PAGE}/files/CUB_200_2011.tgz?download=1",
    size=1_150_585_339,
    checksum="sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    marker="images.txt",
)


class Cub(Official):
    """CUB-200-2011, fine-grained photographs of 200 bird species."""

    TITLE = "CUB-200-2011"
    CLASSES = 200
    TRAIN_IMAGES = 5_994
    TEST_IMAGES = 5_794
    LAYOUTS = ((_ARCHIVE,),)
    STEPS = manual_steps(_ARCHIVE)

    @staticmethod
    def read(pieces: Mapping[str, Files]) -> Scan:
        """Read the official lists; image ids are their numbers."""
        return read_id_lists(pieces[_FOLDER], int)
