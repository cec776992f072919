"""Text lists of official archives: one line per image, which starts with its id."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from apinet_jax.data.official.archive import Files, read_list, require
from apinet_jax.data.records.scan import Box, Entry, Scan
from apinet_jax.system.errors import InputError

# Pixels from the corner of a picture. Beyond, sums of edges overflow.
_MAX_POSITION = 1e9


def read_lines(files: Files, name: str) -> list[str]:
    """Return the stripped lines of a list, without empty lines at its end.

    Raises:
        InputError: It is missing or cannot be read.
    """
    text = read_list(files, name).decode("utf-8", "replace")
    return [line.strip() for line in text.rstrip().splitlines()]


def read_table(files: Files, name: str, key: Callable[[str], int | str] = str) -> dict:
    """Read a list of lines "id value" into the values by their ids, in the order of the lines.

    Args:
        files: The files of the data set.
        name: Path of the list.
        key: Type of the ids.

    Raises:
        InputError: The list is missing, or a line does not have that form or repeats an id.
    """
    table = {}
    for row, line in enumerate(read_lines(files, name), 1):
        text, _, value = line.partition(" ")
        try:
            number = key(text)
        except ValueError:
            value = ""
        if not value:
            raise InputError(
                f'Line {row} of {name} in {files.place} is not "id value". {files.repair_hint}'
            )
        if number in table:
            raise InputError(f"Line {row} of {name} in {files.place} repeats id {text}.")
        table[number] = value
    return table


def read_box(files: Files, name: str, image: int | str, text: str | None) -> list[float]:
    """Return the four numbers of an image's line in a list of boxes.

    Raises:
        InputError: There are not four numbers, or one is far outside of any picture.
    """
    try:
        numbers = [float(part) for part in (text or "").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(abs(number) < _MAX_POSITION for number in numbers):
        raise InputError(
            f"Image {image} has no box of four numbers in {name} of {files.place}. "
            f"{files.repair_hint}"
        )
    return numbers


def read_id_lists(files: Files, key: Callable[[str], int | str]) -> Scan:
    """Read the lists that CUB-200-2011 and NABirds share.

    `images.txt` ("id path"), `image_class_labels.txt` ("id class"), `train_test_split.txt` ("id 1"
    for training), `classes.txt` ("class name"), `bounding_boxes.txt` ("id x y width height").
    Classes without images are left out: NABirds lists every node of its tree.

    Args:
        files: The files of the data set.
        key: Type of the image ids.

    Returns:
        The images, by split and id; labels follow the numbers of the classes.

    Raises:
        InputError: A list or an image is missing, or an image has no class, split or box, or is
            in the folder of another class.
    """
    names = read_table(files, "classes.txt", int)
    paths = read_table(files, "images.txt", key)
    class_of = read_table(files, "image_class_labels.txt", key)
    is_train = read_table(files, "train_test_split.txt", key)
    boxes = "bounding_boxes.txt"
    box_of = read_table(files, boxes, key) if files.has(boxes) else None
    require(files, (f"images/{path}" for path in paths.values()), "images.txt")
    numbers = {str(number): number for number in names}
    folders: dict[str, str] = {}
    for image, path in paths.items():
        if is_train.get(image) not in ("0", "1") or image not in class_of:
            raise InputError(
                f"Image {image} ({path}) has no class or no split in {files.place}. "
                f"{files.repair_hint}"
            )
        if class_of[image] not in numbers:
            raise InputError(
                f"Image {image} ({path}) is in class {class_of[image]}, which is not in "
                f"classes.txt of {files.place}. {files.repair_hint}"
            )
        check_folder(files, "image_class_labels.txt", folders, class_of[image], path)
    used = sorted({numbers[class_of[image]] for image in paths})
    label_of = {str(number): label for label, number in enumerate(used)}
    entries = []
    for split, flag in (("train", "1"), ("test", "0")):
        for image in sorted(image for image in paths if is_train[image] == flag):
            box = None
            if box_of is not None:
                x, y, width, height = read_box(files, boxes, image, box_of.get(image))
                box = Box.around(x, y, x + width, y + height)
            path = paths[image]
            read = partial(files.read, f"images/{path}")
            entries.append(Entry(split, path, label_of[class_of[image]], image, read, box))
    class_names = distinct([names[number] for number in used], used)
    return Scan(files.place, class_names, tuple(entries))


def check_folder(files: Files, name: str, folders: dict, number: int | str, path: str) -> None:
    """Check that an image is in the folder of its class.

    Args:
        files: The files of the data set.
        name: Path of the list that gives the class.
        folders: The folders of classes seen before; this one's is added.
        number: The class.
        path: Path of the image, which starts with the folder of a class.

    Raises:
        InputError: It is in the folder of another class.
    """
    folder = path.partition("/")[0]
    if folders.setdefault(number, folder) != folder:
        raise InputError(
            f"{name} in {files.place} puts {path} into the class of {folders[number]}. "
            f"{files.repair_hint}"
        )


def distinct(names: Sequence[str], numbers: Iterable[int]) -> tuple[str, ...]:
    """Return the names, with their numbers where a name occurs more than once."""
    times = Counter(names)
    return tuple(
        f"{name} [{number}]" if times[name] > 1 else name
        for name, number in zip(names, numbers, strict=True)
    )
