"""The sources of images: scikit-learn's digits, folders, Parquet files, and the Hugging Face hub."""

import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sharpless.lab.tasks.images.pictures import Pictures

__all__ = ["Source", "places", "read"]

HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
LABEL = {"cifar100": "fine_label"}
TEST_SPLITS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class Source:
    """The pictures of a task, and the names of their classes."""

    train: Pictures
    test: Pictures
    classes: tuple[str, ...]


def read(name: str, data_dir: str | Path | None = None) -> Source:
    """Return the source of a name.

    Args:
        name: digits, cifar10, cifar100, imagenet, folder:PATH or hub:NAME.
            PATH has one folder per class in train and test (or validation, valid, val). Without such folders PATH
            itself has one folder per class. NAME is a data set of the Hugging Face hub, or a local path for
            `datasets.load_dataset`. The test set is the split test, or validation if there is no test with labels,
            or else a fixed fifth of each class of the training examples.
        data_dir: for cifar10, cifar100 and imagenet, a local folder in place of the hub. It is like PATH with a folder
            train, or it has files train-*.parquet and test-*.parquet, or validation-*.parquet.

    Returns:
        The source. Its images are not decoded yet: some may be broken.

    Raises:
        ValueError: there is no such source, or it cannot be read or has no images with labels.
    """
    kind, _, place = name.partition(":")
    if data_dir is not None and name not in HUB:
        raise ValueError(f"data_dir = {data_dir} is for {', '.join(HUB)}: leave it out for {name}")
    if name == "digits":
        return _digits()
    if kind == "folder" and place:
        return _source(name, _folders(name, Path(place)))
    if kind == "hub" and place:
        return _source(name, _loaded(name, place))
    if name not in HUB:
        raise ValueError(f"data = {name} is unknown: give digits, {', '.join(HUB)}, folder:PATH or hub:NAME")
    if data_dir is None:
        return _source(name, _loaded(name, HUB[name]), LABEL.get(name))
    folder = Path(data_dir)
    splits = _folders(name, folder) if (folder / "train").is_dir() else _parquet(name, folder)
    return _source(f"{name} in {data_dir}", splits, LABEL.get(name))


def places(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the position of each example, from 0, in a random order within its class.

    >>> places(np.array([0, 1, 0, 1, 1]), np.random.default_rng(0)).tolist()
    [1, 2, 0, 1, 0]
    """
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    result = np.empty(len(labels), np.int64)
    result[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return result


def _digits() -> Source:
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.uint8).reshape(-1, 8, 8)  # whole numbers from 0 to 16
    train, test = train_test_split(np.arange(len(labels)), test_size=500, random_state=0, stratify=labels)
    everything = Pictures(images, np.arange(len(labels)), labels.astype(np.int64), "digits")
    return Source(everything.take(train), everything.take(test), tuple("0123456789"))


def _datasets(name: str) -> Any:
    try:
        datasets = import_module("datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install 'sharpless[data]'") from error
    if multiprocessing.parent_process():  # many processes share one terminal
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        import_module("huggingface_hub.utils").disable_progress_bars()
    return datasets


def _loaded(name: str, *arguments: Any, **options: Any) -> Mapping[str, Any]:
    datasets = _datasets(name)
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(*arguments, **options)
    except Exception as error:  # of datasets, of pyarrow, of the network
        # This error only points to another one, and most are longer than two lines.
        reason = error.__cause__ if type(error) is datasets.exceptions.DatasetGenerationError else error
        lines = [line.strip() for line in str(reason or error).splitlines() if line.strip()]
        remedy = "; give a folder that holds it (data_dir = FOLDER), or try again" if name in HUB else ""
        raise ValueError(f"{name} cannot be read: {' '.join(lines[:2])}{remedy}") from error
    return splits


def _parquet(name: str, folder: Path) -> Mapping[str, Any]:
    _datasets(name)
    files = {split: sorted(map(str, folder.glob(f"{split}-*.parquet"))) for split in ("train", *TEST_SPLITS)}
    files = {split: found for split, found in files.items() if found}
    if "train" not in files or len(files) == 1:
        raise FileNotFoundError(
            f"{folder} holds no train-*.parquet and test-*.parquet: give the folder of {name} (data_dir = FOLDER)"
        )
    first, columns = files["train"][0], None
    for path in (path for found in files.values() for path in found):
        try:
            metadata = import_module("pyarrow.parquet").read_metadata(path)
        except ValueError as error:
            raise ValueError(f"{path} is not a complete Parquet file: download it again") from error
        if not metadata.num_rows:
            raise ValueError(f"{path} is empty: give images, or remove it")
        names = metadata.schema.to_arrow_schema().names
        if names != (columns := columns or names):
            raise ValueError(f"{path} has other columns than {first}: give the files of one data set")
    return _loaded(f"{name} in {folder}", "parquet", data_files=files)


def _folders(name: str, folder: Path) -> Mapping[str, Any]:
    datasets = _datasets(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} cannot be read: {folder} is not a folder")
    train = folder / "train" if (folder / "train").is_dir() else folder
    roots = {"train": train}
    if train != folder:
        roots |= {split: folder / split for split in TEST_SPLITS if (folder / split).is_dir()}
    names = _classes(train)
    if len(names) < 2:
        raise ValueError(
            f"{train} has folders of {len(names)} classes: give one folder of images per class, for two or more"
        )
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    endings = Image.registered_extensions()
    splits = {}
    for split, root in roots.items():
        if strange := set(_classes(root)) - set(names):
            raise ValueError(f"{root / min(strange)} is a class that {train} lacks: give the same classes in both")
        paths, labels = [], []
        for label, known in enumerate(names):
            inside = sorted(os.listdir(root / known)) if (root / known).is_dir() else []
            inside = [entry for entry in inside if not entry.startswith(".")]  # hidden files of the system
            images = [entry for entry in inside if os.path.splitext(entry)[1].lower() in endings]
            for entry in images:
                _check_name(root / known / entry)
            if not images and split == "train":
                raise ValueError(f"{root / known} has no image: give images of the class, or remove the folder")
            paths += [str(root / known / entry) for entry in images]
            labels += [label] * len(images)
        splits[split] = datasets.Dataset.from_dict({"image": paths, "label": labels}, features)
    return splits


def _classes(root: Path) -> list[str]:
    _check_name(root)
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _check_name(path: Path) -> None:
    """Check that Arrow can store a path.

    Raises:
        ValueError: its name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path} has a name that is not UTF-8: rename it") from None


def _source(name: str, splits: Mapping[str, Any], label: str | None = None) -> Source:
    if "train" not in splits:
        raise ValueError(f"{name} has the splits {', '.join(splits)}: one must be called train")
    train, classes = _pictures(name, splits, "train", label)
    tests = (_pictures(name, splits, split, label)[0] for split in TEST_SPLITS if split in splits)
    test = next(
        (pictures for pictures in tests if (pictures.labels != -1).any()), None
    )  # −1: no label, as in ImageNet's test
    labelled = [train] if test is None else [train, test]
    classes = classes or tuple(map(str, range(1 + max(pictures.labels.max() for pictures in labelled))))
    for pictures in labelled:
        for wrong in pictures.labels[(pictures.labels < 0) | (pictures.labels >= len(classes))]:
            raise ValueError(f"{pictures.where} has the label {wrong}: give labels from 0 to {len(classes) - 1}")
    if test is None:
        sizes = np.bincount(train.labels)
        if (sizes == 1).any():
            raise ValueError(f"{name} has a class of one image and no test set: give two or more of each")
        held = places(train.labels, np.random.default_rng(0)) < np.ceil(sizes / 5)[train.labels]
        train, test = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    return Source(train, test, classes)


def _pictures(name: str, splits: Mapping[str, Any], split: str, label: str | None) -> tuple[Pictures, tuple[str, ...]]:
    """Return the pictures of a split and the names of their classes. There are no names if labels are numbers.

    Raises:
        ValueError: there are no pictures with labels.
    """
    datasets = _datasets(name)
    where, found, features = f"split {split} of {name}", splits[split], splits[split].features
    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {"bytes", "path"} == set(feature))
    ]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)] or [
        key for key, feature in features.items() if "int" in str(getattr(feature, "dtype", ""))
    ]
    labels = next(([key] for key in (label, "label") if key in labels), labels)
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(f"{where} has the columns {', '.join(features)}: one must hold images and one labels")
    if not len(found):
        raise ValueError(f"{where} is empty: give images")
    numbers = found.select_columns(labels).with_format("arrow")[:][labels[0]]
    if numbers.null_count:
        raise ValueError(f"{where} has images without a label: give each a number in column {labels[0]}")
    encoded = found.select_columns(images).cast_column(images[0], datasets.Image(decode=False))
    if images != ["image"]:
        encoded = encoded.rename_column(images[0], "image")
    everything = np.arange(len(found), dtype=np.int64)
    pictures = Pictures(encoded, everything, numbers.to_numpy().astype(np.int64), where)
    return pictures, tuple(getattr(features[labels[0]], "names", None) or ())
