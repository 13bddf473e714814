"""The data: what is read, how it is split, subset and made noisy, and what is said of data that cannot be read."""

import io
import random
import re
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.examples import Resident, Streamed
from sharpless.lab.tasks.images.sources import read


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Keep the cache of `datasets` out of the home, and the tests off the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def everything(examples):
    (batch,) = examples.batches([torch.arange(len(examples))])
    return batch


def random_images(number, seed=0, size=(8, 8), channels=3):
    shape = (number, *size, channels) if channels == 3 else (number, *size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path, images, labels, image="img", label="label"):
    rows = [{"bytes": picture if isinstance(picture, bytes) else encoded(picture), "path": None} for picture in images]
    pq.write_table(pa.table({image: rows, label: labels}), path)


def cifar(folder, train=20, test=10, **columns):
    """Write images of two classes as the hub has CIFAR-10's, and return them."""
    x, test_x = random_images(train, 1), random_images(test, 2)
    y, test_y = np.arange(train) % 2, np.arange(test) % 2
    write_parquet(folder / "train-00000-of-00002.parquet", x[:5], y[:5], **columns)
    write_parquet(folder / "train-00001-of-00002.parquet", x[5:], y[5:], **columns)
    write_parquet(folder / "test-00000-of-00001.parquet", test_x, test_y, **columns)
    return x, y, test_x, test_y


def write_folder(root, per_class, size=(8, 8), channels=3, seed=0, classes=("ant", "bee")):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i, image in enumerate(random_images(per_class, seed + ord(name[0]), size, channels)):
            Image.fromarray(image).save(root / name / f"{i:03}.png")


# The digits


@pytest.mark.parametrize(
    ("noise", "seed", "held_out"), [(0.0, 0, 0.0), (0.3, 0, 0.0), (0.3, 1, 0.0), (0.3, 7, 0.25), (1.0, 2, 0.1)]
)
def test_the_digits(noise, seed, held_out):
    """Sees another split, other noise or other pixels than those that all results so far are of."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    x, test_x, y, test_y = train_test_split(images, labels, test_size=500, random_state=0, stratify=labels)
    generator = np.random.default_rng(seed)
    replaced = generator.permutation(1297)[: round(noise * 1297)]
    y[replaced] = generator.integers(0, 10, len(replaced))
    if held_out:
        x, test_x, y, test_y = train_test_split(x, y, test_size=held_out, random_state=seed)
    data = load("digits", noise=noise, seed=seed, held_out=held_out)
    for examples, pixels, numbers in ((data.train, x, y), (data.test, test_x, test_y)):
        read, right = everything(examples)
        assert read.dtype == torch.float32
        assert torch.equal(read, torch.from_numpy(pixels))
        assert torch.equal(right, torch.from_numpy(numbers))
        assert torch.equal(right, examples.labels)
    assert (data.classes, data.channels, data.split) == (10, 1, "validation" if held_out else "test")


def test_the_digits_need_no_datasets():
    """Sees the digits ask for the packages of other sources, or another source fail with a traceback."""
    code = (
        "import sys; sys.modules['datasets'] = sys.modules['torchvision'] = None\n"
        "from sharpless.lab.tasks.images.data import load\n"
        "print(len(load('digits').train))\n"
        "try:\n    load('cifar10')\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["1297", "cifar10 needs datasets: pip install 'sharpless[data]'"]


def test_noise():
    """Sees noise in the test labels, another share than asked for, or the same noise for every seed."""
    clean, noisy, other = load("digits"), load("digits", noise=0.3), load("digits", noise=0.3, seed=1)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    assert torch.equal(everything(clean.train)[0], everything(other.train)[0])
    changed = clean.train.labels != noisy.train.labels
    # A replaced label is drawn from all ten classes: nine tenths of 30 % become wrong.
    assert float(changed.float().mean()) == pytest.approx(0.27, abs=0.02)
    assert not torch.equal(noisy.train.labels, other.train.labels)
    assert torch.bincount(noisy.train.labels[changed], minlength=10).min() > 10
    # What is read is read once, and noise is not to pile up in it.
    assert torch.equal(load("digits").train.labels, clean.train.labels)


def test_a_subset_is_balanced():
    """Sees a subset of unequal classes, one that ignores the seed, noise that counts, or labels of other images."""
    whole = load("digits")
    images = {bytes(x.numpy()): int(y) for x, y in zip(*everything(whole.train), strict=True)}
    seen = []
    for seed in (0, 1):
        data = load("digits", examples=204, seed=seed, noise=0.5)
        clean = load("digits", examples=204, seed=seed)
        counts = clean.train.labels.bincount(minlength=10)
        assert counts.sum() == len(data.train) == 204
        assert set(counts.tolist()) == {20, 21}
        x, y = everything(clean.train)
        assert [images[bytes(image.numpy())] for image in x] == y.tolist()
        assert len({bytes(image.numpy()) for image in x}) > 200  # taken without replacement
        assert torch.equal(everything(data.train)[0], x)
        assert 0.3 < float((data.train.labels != y).float().mean()) < 0.6
        assert torch.equal(data.test.labels, whole.test.labels)
        seen.append(x)
    assert not torch.equal(*seen)
    assert torch.equal(everything(load("digits", examples=204).train)[0], seen[0])


def test_validation_is_of_the_training_examples():
    """Sees tuning on the test set, on images that are trained on, or on clean labels where training has noisy ones."""
    data, whole = load("digits", noise=0.5, held_out=0.2, examples=500), load("digits", noise=0.5, examples=500)
    noisy = {bytes(x.numpy()): int(y) for x, y in zip(*everything(whole.train), strict=True)}
    trained, validated = ([bytes(x.numpy()) for x in everything(part)[0]] for part in (data.train, data.test))
    tested = {bytes(x.numpy()) for x in everything(whole.test)[0]}
    assert (len(trained), len(validated)) == (400, 100)
    assert not set(validated) & (set(trained) | tested)
    assert set(trained) | set(validated) == set(noisy)
    assert [noisy[image] for image in validated] == data.test.labels.tolist()
    assert data.fingerprint == whole.fingerprint
    other = load("digits", noise=0.5, held_out=0.2, examples=500, seed=1)
    assert not torch.equal(everything(other.test)[0], everything(data.test)[0])


# Parquet files


@pytest.mark.parametrize("with_features", [False, True])
def test_parquet(tmp_path, with_features):
    """Sees images and labels in other rows, files left out, wrong moments, or other pixels than the files have."""
    x, y, test_x, test_y = cifar(tmp_path)
    if with_features:  # as the hub has them, with the names of the classes
        kinds = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cow"])})
        for split, images, labels in (("train", x, y), ("test", test_x, test_y)):
            rows = {"img": [Image.fromarray(image) for image in images], "label": labels}
            for old in tmp_path.glob(f"{split}-*"):
                old.unlink()
            datasets.Dataset.from_dict(rows, kinds).to_parquet(tmp_path / f"{split}-0.parquet")
    data = load("cifar10", data_dir=tmp_path)
    assert isinstance(data.train, Resident)
    assert (data.classes, data.channels, data.split) == (3 if with_features else 2, 3, "test")
    assert data.train.images.dtype == torch.uint8
    mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
    for examples, pixels, labels in ((data.train, x, y), (data.test, test_x, test_y)):
        read, right = everything(examples)
        expected = ((pixels - mean) / std).transpose(0, 3, 1, 2)
        torch.testing.assert_close(read, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-6)
        assert right.tolist() == labels.tolist()


def test_the_label_of_cifar100(tmp_path):
    """Sees the twenty superclasses taken for the hundred classes."""
    x = random_images(6)
    for split in ("train", "test"):
        rows = [{"bytes": encoded(image), "path": None} for image in x]
        table = pa.table({"img": rows, "coarse_label": [0, 1] * 3, "fine_label": [0, 1, 2, 3, 4, 5]})
        pq.write_table(table, tmp_path / f"{split}-0.parquet")
    data = load("cifar100", data_dir=tmp_path)
    assert data.classes == 6
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_imagenet_is_tested_on_validation(tmp_path):
    """Sees a test set whose labels are secret taken for one of the class −1."""
    x = random_images(6)
    for split, labels in (("train", [0, 1] * 3), ("test", [-1] * 6), ("validation", [1, 0] * 3)):
        write_parquet(tmp_path / f"{split}-0.parquet", x, labels, image="image")
    data = load("imagenet", data_dir=tmp_path)
    assert data.test.labels.tolist() == [1, 0] * 3
    assert data.classes == 2


def broken(case, folder):
    """Spoil the files of `cifar` in one way."""
    train, test = folder / "train-00001-of-00002.parquet", folder / "test-00000-of-00001.parquet"
    match case:
        case "no test":
            test.unlink()
        case "truncated":
            train.write_bytes(train.read_bytes()[:-20])
        case "foreign":
            for path in folder.glob("*"):
                pq.write_table(pa.table({"a": [1.5], "b": ["x"]}), path)
        case "other columns":
            pq.write_table(pa.table({"a": [1.5], "b": ["x"]}), test)
        case "undecodable":
            write_parquet(test, [*random_images(3), b"no image", *random_images(1)], [0, 1, 0, 1, 0])
        case "cut off":
            write_parquet(test, [*random_images(2), encoded(random_images(1)[0])[:-60]], [0, 1, 0])
        case "deep":
            write_parquet(test, [encoded(np.arange(64, dtype=np.uint16).reshape(8, 8))], [0])
        case "negative":
            write_parquet(test, random_images(2), [0, -3])
        case "unlabelled":
            write_parquet(test, random_images(2), [0, None])
        case "empty":
            pq.write_table(pq.read_table(test).slice(0, 0), test)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "no test",
            "{folder} holds no train-*.parquet and test-*.parquet: give the folder of cifar10 (data_dir = FOLDER)",
        ),
        ("truncated", "{folder}/train-00001-of-00002.parquet is not a complete Parquet file: download it again"),
        ("foreign", "split train of {name} has the columns a, b: one must hold images and one labels"),
        ("undecodable", "image 3 of split test of {name} cannot be decoded: repair it, or take it out"),
        ("cut off", "image 2 of split test of {name} cannot be decoded: repair it, or take it out"),
        ("deep", "image 0 of split test of {name} has Pillow's mode I;16: give images of 8 bits, greyscale or color"),
        ("negative", "split test of {name} has the label -3: give labels from 0 to 1"),
        ("unlabelled", "split test of {name} has images without a label: give each a number in column label"),
        ("empty", "{folder}/test-00000-of-00001.parquet is empty: give images, or remove it"),
        (
            "other columns",
            "{folder}/test-00000-of-00001.parquet has other columns than {folder}/train-00000-of-00002.parquet: "
            "give the files of one data set",
        ),
    ],
)
def test_broken_parquet(tmp_path, case, message):
    """Sees a traceback of another package, or files that are read although something is wrong with them."""
    cifar(tmp_path)
    broken(case, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load("cifar10", data_dir=tmp_path)
    assert str(caught.value) == message.format(folder=tmp_path, name=f"cifar10 in {tmp_path}")


# Folders


@pytest.mark.parametrize("test", ["test", "validation", "val"])
def test_a_folder_with_a_test_set(tmp_path, test):
    """Sees training images in the test set, classes in another order, or files that are no images read as such."""
    write_folder(tmp_path / "train", 3)
    write_folder(tmp_path / test, 2, seed=9)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load(f"folder:{tmp_path}")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    expected = random_images(2, 9 + ord("b")).transpose(0, 3, 1, 2)
    assert np.array_equal(data.test.images[2:].numpy(), expected)


def test_a_folder_without_a_test_set(tmp_path):
    """Sees a test set that depends on the seed, has other shares of the classes, or is trained on."""
    write_folder(tmp_path, 10)
    write_folder(tmp_path, 4, classes=("cow",))
    data, other = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", seed=5, noise=0.5)
    assert data.test.labels.bincount().tolist() == [2, 2, 1]
    assert data.train.labels.bincount().tolist() == [8, 8, 3]
    assert torch.equal(data.test.images, other.test.images)
    again = [read(f"folder:{tmp_path}").test.indices.tolist() for _ in range(2)]  # another process would read again
    assert again[0] == again[1]
    trained, tested = ({bytes(x.numpy()) for x in part.images} for part in (data.train, data.test))
    assert len(trained | tested) == 24
    first = random_images(10, ord("a")).transpose(0, 3, 1, 2)[:2]
    assert not np.array_equal(data.test.images[:2].numpy(), first)  # not simply the first ones of a class


def test_greyscale(tmp_path):
    """Sees three equal channels where one is enough, or one where some images have colors."""
    write_folder(tmp_path / "grey", 5, channels=1)
    assert load(f"folder:{tmp_path / 'grey'}").channels == 1
    write_folder(tmp_path / "mixed", 5, channels=1)
    Image.fromarray(random_images(1)[0]).save(tmp_path / "mixed" / "bee" / "000.png")
    mixed = load(f"folder:{tmp_path / 'mixed'}")
    assert mixed.channels == mixed.train.images.shape[1] == mixed.test.images.shape[1] == 3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "folder:{folder} cannot be read: {folder} is not a folder"),
        ("no classes", "{folder} has folders of 0 classes: give one folder of images per class, for two or more"),
        ("empty class", "{folder}/cow has no image: give images of the class, or remove the folder"),
        ("another class", "{folder}/test/dog is a class that {folder}/train lacks: give the same classes in both"),
        ("empty test", "split test of folder:{folder} is empty: give images"),
        ("one image", "folder:{folder} has a class of one image and no test set: give two or more of each"),
        ("no image", "image 1 of split train of folder:{folder} ({folder}/ant/001.png) cannot be decoded: repair it, "
         "or take it out"),
    ],
)  # fmt: skip
def test_broken_folders(tmp_path, case, message):
    """Sees a traceback, or a class that is made of nothing."""
    folder = tmp_path / "images"
    match case:
        case "no classes":
            folder.mkdir()
        case "empty class":
            write_folder(folder, 2)
            (folder / "cow").mkdir()
        case "another class":
            write_folder(folder / "train", 2)
            write_folder(folder / "test", 2, classes=("ant", "dog"))
        case "empty test":
            write_folder(folder / "train", 2)
            (folder / "test").mkdir()
        case "one image":
            write_folder(folder, 1)
        case "no image":
            write_folder(folder, 2)
            (folder / "ant" / "001.png").write_bytes(b"no image")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(f"folder:{folder}")
    assert str(caught.value) == message.format(folder=folder)


# The hub


def test_a_local_data_set_of_the_hub(tmp_path):
    """Sees columns that are found by their names and not by what they hold, and greyscale JPEG images misread."""
    x = random_images(6, channels=1)
    kinds = datasets.Features(
        {
            "index": datasets.Value("int64"),
            "scan": datasets.Image(),
            "species": datasets.ClassLabel(names=["ant", "bee"]),
        }
    )
    for split, labels in (("train", [0, 1] * 3), ("validation", [1, 0] * 3)):
        rows = {"index": range(6), "scan": [{"bytes": encoded(image, "JPEG"), "path": None} for image in x]}
        table = datasets.Dataset.from_dict(rows | {"species": labels}, kinds)
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    data = load(f"hub:{tmp_path}")
    assert data.test.labels.tolist() == [1, 0] * 3
    assert (data.classes, data.channels) == (2, 1)
    expected = np.stack([np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG")))) for image in x])
    assert np.array_equal(data.train.images[:, 0].numpy(), expected)


def test_nothing_to_train_on(tmp_path):
    """Sees a traceback where a data set has a test set alone, or no test set and training images of no class."""
    write_parquet(tmp_path / "test-0.parquet", random_images(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"has the splits test: one must be called train$"):
        load(f"hub:{tmp_path}")
    (tmp_path / "test-0.parquet").unlink()
    write_parquet(tmp_path / "train-0.parquet", random_images(4), [0, 1, -1, 1])
    with pytest.raises(ValueError, match=r"^split train of hub:.* has the label -1: give labels from 0 to 1$"):
        load(f"hub:{tmp_path}")


def test_a_data_set_of_two_parts(tmp_path):
    """Sees a sentence of many lines, as the packages below write them."""
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        write_parquet(tmp_path / part / "train-0.parquet", random_images(2), [0, 1])
    parts = "".join(f"- config_name: {part}\n  data_files: {part}/*\n" for part in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{parts}---\n")
    with pytest.raises(ValueError, match=r"one.*two") as caught:
        load(f"hub:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_reach():
    """Sees a traceback of many lines where there is no network."""
    with pytest.raises(ValueError, match=r"^hub:nobody/nothing cannot be read: [^\n]*(reach|offline|find)[^\n]*$"):
        load("hub:nobody/nothing")


# Small and large


def test_small_images(tmp_path):
    """Sees images of 64 pixels streamed, images of 65 kept, or images that are not resized to one size."""
    write_folder(tmp_path / "small", 5, (64, 40))
    data = load(f"folder:{tmp_path / 'small'}")
    assert isinstance(data.train, Resident)
    assert data.train.images.shape == (8, 3, 64, 40)
    write_folder(tmp_path / "large", 5, (65, 40))
    assert isinstance(load(f"folder:{tmp_path / 'large'}").train, Streamed)
    resized = load(f"folder:{tmp_path / 'large'}", image_size=16)
    assert resized.train.images.shape == (8, 3, 16, 16)
    assert isinstance(load(f"folder:{tmp_path / 'small'}", image_size=65).train, Streamed)
    write_folder(tmp_path / "mixed", 5, (8, 8))
    Image.fromarray(random_images(1, size=(8, 9))[0]).save(tmp_path / "mixed" / "bee" / "000.png")
    assert isinstance(load(f"folder:{tmp_path / 'mixed'}").train, Streamed)


def test_resizing_is_antialiased(tmp_path):
    """Sees one pixel in four taken where their mean belongs: a pattern of lines then becomes black or white."""
    lines = np.zeros((32, 32), np.uint8)
    lines[:, ::2] = 255
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(lines).save(tmp_path / name / f"{i}.png")
    data = load(f"folder:{tmp_path}", image_size=8)
    assert data.train.images.shape == (2, 1, 8, 8)
    assert (data.train.images.float() - 127.5).abs().max() < 10


def test_large_images(tmp_path):
    """Sees another cut, size or normalization than ImageNet's usual ones, a greyscale image, or mixed rows."""
    write_folder(tmp_path / "train", 3, (70, 90))
    write_folder(tmp_path / "test", 3, (90, 70), channels=1)
    Image.fromarray(random_images(1, size=(90, 70))[0]).save(tmp_path / "test" / "ant" / "000.png")
    data = load(f"folder:{tmp_path}", image_size=70)
    assert (data.channels, data.classes) == (3, 2)
    assert isinstance(data.train, Streamed)
    rows = [torch.tensor([4, 0]), torch.tensor([5])]
    (x, y), (last, last_y) = data.test.batches(rows)
    assert x.shape == (2, 3, 70, 70)
    assert y.tolist() == [1, 0]
    assert (last.shape, last_y.tolist()) == ((1, 3, 70, 70), [1])
    assert load(f"folder:{tmp_path}").train.size == 224
    # An oracle in Pillow: the shorter side becomes 80 = 70 · 256 / 224, the middle is cut out.
    image = (
        Image.open(tmp_path / "test" / "bee" / "001.png").convert("RGB").resize((80, 102), Image.Resampling.BILINEAR)
    )
    pixels = np.asarray(image)[16:86, 5:75] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    torch.testing.assert_close(x[0], torch.from_numpy(expected).permute(2, 0, 1).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_large_image(tmp_path, workers):
    """Sees the sentence buried under the traceback of a worker, or another image blamed in a subset."""
    write_folder(tmp_path, 6, (70, 70))
    path = tmp_path / "bee" / "004.png"
    path.write_bytes(path.read_bytes()[:2000])
    data = load(f"folder:{tmp_path}", held_out=0.5, seed=1, workers=workers)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        for part in (data.train, data.test):
            everything(part)
    sentence = f"image 10 of split train of folder:{tmp_path} ({path}) cannot be decoded: repair it, or take it out"
    assert str(caught.value) == sentence


@pytest.mark.parametrize("size", [8, 70])
def test_all_broken_images_are_told_of_at_once(tmp_path, size):
    """Sees one broken image told of at a time, in one set of two, or a sentence as long as the data are."""
    write_folder(tmp_path, 20, (size, size))
    broken = [tmp_path / "ant" / f"{i:03}.png" for i in range(13)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        everything(load(f"folder:{tmp_path}").train)
    sentence = str(caught.value)
    told = [path for path in broken if str(path) in sentence]
    assert len(told) == 10
    left = int(re.search(r"; and (\d+) more$", sentence)[1]) if size == 8 else None
    assert left in {3, None}


def test_hidden_files_are_passed_over(tmp_path):
    """Sees what a system leaves beside images, ._000.png say, taken for one, or a hidden folder for a class."""
    write_folder(tmp_path, 5)
    (tmp_path / ".hidden").mkdir()
    for name in ("._000.png", ".DS_Store", ".thumb.jpg"):
        (tmp_path / "ant" / name).write_bytes(b"no image")
    data = load(f"folder:{tmp_path}")
    assert len(data.train) + len(data.test) == 10
    for path in (tmp_path / "ant").glob("[0-9]*"):
        path.unlink()
    with pytest.raises(ValueError, match="ant has no image"):
        read(f"folder:{tmp_path}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_that_was_turned(tmp_path, orientation):
    """Sees an image that lies on its side, since the orientation that its EXIF data tell is not obeyed."""
    write_folder(tmp_path, 5)
    upright = random_images(1, 9)[0]
    image = Image.fromarray(upright)
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = image.transpose(turned[orientation]) if orientation in turned else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "ant" / "000.png", exif=exif)
    pictures = [part for part in (read(f"folder:{tmp_path}").train, read(f"folder:{tmp_path}").test)]
    found = [part.picture(row) for part in pictures for row in range(len(part)) if part.indices[row] == 0]
    np.testing.assert_array_equal(np.asarray(found[0]), upright)


def test_a_name_that_is_no_text(tmp_path):
    """Sees a codec's complaint in place of the file whose name is not UTF-8."""
    write_folder(tmp_path, 5)
    (tmp_path / "ant" / "000.png").rename(tmp_path / "ant" / "\udcff.png")
    with pytest.raises(ValueError, match="has a name that is not UTF-8: rename it"):
        read(f"folder:{tmp_path}")


# Fingerprints, arguments and generators


def test_the_fingerprint(tmp_path):
    """Sees a pixel, a label or a name changed behind a study's back, or a fingerprint that depends on the run."""
    prints = set()
    for case in ("as it is", "pixel", "test pixel", "label"):
        folder = tmp_path / case
        folder.mkdir()
        x, y, test_x, test_y = cifar(folder)
        (x if case == "pixel" else test_x)[7, 3, 2, 1] ^= case.endswith("pixel")
        y[7] ^= case == "label"
        for path in folder.glob("train-*"):
            path.unlink()
        write_parquet(folder / "train-0.parquet", x, y)
        write_parquet(folder / "test-00000-of-00001.parquet", test_x, test_y)
        data = load("cifar10", data_dir=folder)
        assert len(data.fingerprint) == 16
        assert load("cifar10", data_dir=folder, noise=0.5, seed=3, examples=6).fingerprint == data.fingerprint
        prints.add(data.fingerprint)
    assert len(prints) == 4
    assert load("digits").fingerprint == load("digits", noise=0.3, seed=4).fingerprint


def test_the_fingerprint_of_large_images(tmp_path):
    """Sees images replaced by others of another size, classes renamed, or labels changed."""
    prints = set()
    for case in ("as it is", "other image", "other names", "fewer"):
        folder = tmp_path / case
        write_folder(folder, 5, (70, 70), classes=("ant", "cow") if case == "other names" else ("ant", "bee"))
        if case == "other image":
            Image.fromarray(np.zeros((70, 70, 3), np.uint8)).save(folder / "ant" / "000.png")
        if case == "fewer":
            (folder / "bee" / "004.png").unlink()
        prints.add(load(f"folder:{folder}").fingerprint)
    assert len(prints) == 4
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    for split in ("train", "test"):
        write_parquet(parquet / f"{split}-0.parquet", random_images(4, size=(70, 70)), [0, 1] * 2)
    assert len(load("cifar10", data_dir=parquet).fingerprint) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": 1.5}, "noise = 1.5 is out of range: give a share in [0, 1]"),
        ({"noise": float("nan")}, "noise = nan is out of range: give a share in [0, 1]"),
        ({"held_out": 1.0}, "held_out = 1.0 is out of range: give a share in [0, 1)"),
        ({"held_out": 0.9999}, "held_out = 0.9999 leaves none of the 1297 training examples: give less"),
        ({"seed": -1}, "seed = -1 is out of range: give a whole number from 0 to 4294967295"),
        ({"examples": -1}, "examples = -1 is out of range: give a number of training examples, or 0 for all"),
        ({"examples": 1298}, "examples = 1298 is out of range: there are 1297 training examples"),
        ({"examples": 1290}, "examples = 1290 is out of range: class 8 has only 126, give less"),
        ({"image_size": -1}, "image_size = -1 is out of range: give pixels, or 0 for the size of the images"),
        ({"image_size": 65}, "image_size = 65 is too large for digits of 8×8 pixels: give at most 64"),
        ({"workers": -1}, "workers = -1 is out of range: give a number of processes, or 0 for none"),
        ({"data_dir": "/"}, "data_dir = / is for cifar10, cifar100, imagenet: leave it out for digits"),
        ({"name": "mnist"}, "data = mnist is unknown: give digits, cifar10, cifar100, imagenet, folder:PATH or "
         "hub:NAME"),
        ({"name": "folder:"}, "data = folder: is unknown: give digits, cifar10, cifar100, imagenet, folder:PATH or "
         "hub:NAME"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, message):
    """Sees an argument accepted that cannot be met, or one that fails deep inside another package."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(**arguments)
    assert str(caught.value) == message


def test_loading_leaves_the_generators_alone(tmp_path):
    """Sees data whose reading changes initial weights and dropout, which come from the global generators."""
    write_folder(tmp_path, 5, (70, 70))
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    load("digits", noise=0.5, seed=3, held_out=0.2, examples=100)
    for workers in (0, 2):
        data = load(f"folder:{tmp_path}", workers=workers)
        everything(data.train)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
