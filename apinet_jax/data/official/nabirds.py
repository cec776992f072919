"""NABirds: 555 classes of North American birds; plumages and sexes are separate classes."""

from collections.abc import Mapping

from apinet_jax.data.official.archive import Files
from apinet_jax.data.official.base import Official, manual_steps
from apinet_jax.data.official.download import Archive
from apinet_jax.data.official.lists import read_id_lists
from apinet_jax.data.records.scan import Scan

_PAGE = "https://dl.allaboutbirds.org/nabirds"
_FOLDER = "nabirds"
# It is served only after its terms were accepted, so there is no address, and nobody publishes
# its size. Checksum: lvyilin/pytorch-fgvc-dataset, nabirds.py.
_ARCHIVE = Archive(
    "nabirds.tar.gz",
    _FOLDER,
    _PAGE,
    checksum="md5:df21a9e4db349a14e2b08adfd45873bd",
    marker="images.txt",
)


class Nabirds(Official):
    """NABirds, photographs of 555 classes of North American birds."""

    TITLE = "NABirds"
    CLASSES = 555
    TRAIN_IMAGES = 23_929
    TEST_IMAGES = 24_633
    LAYOUTS = ((_ARCHIVE,),)
    STEPS = f"It is available on request, after accepting its terms. {manual_steps(_ARCHIVE)}"

    @staticmethod
    def read(pieces: Mapping[str, Files]) -> Scan:
        """Read the official lists; image ids are UUIDs, and many class numbers are unused."""
        return read_id_lists(pieces[_FOLDER], str)
