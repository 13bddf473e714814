"""Augmentation: what is done to an image, and that it depends on seed, epoch and example alone."""

import random
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.examples import Resident, Streamed
from sharpless.lab.tasks.images.recipe import AUGMENTATIONS, check_augmentations

MEAN, STD = torch.tensor([100.0, 120.0, 140.0])[:, None, None], torch.tensor([50.0, 60.0, 70.0])[:, None, None]
EVERYTHING = AUGMENTATIONS


def resident(number=400, size=(32, 32), channels=3, seed=0):
    images = np.random.default_rng(seed).integers(1, 256, (number, channels, *size), dtype=np.uint8)
    images = torch.from_numpy(images)
    return Resident(images, torch.arange(number), MEAN[:channels], STD[:channels], images)


@pytest.fixture
def streamed(tmp_path, monkeypatch):
    """Six images of 80 by 100 pixels, as large ones."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    for name in ("ant", "bee", "cow"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            coarse = np.random.default_rng(i + ord(name[0])).integers(0, 256, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((100, 80)).save(tmp_path / "images" / name / f"{i}.png")

    def make(workers=0):
        data = load(f"folder:{tmp_path / 'images'}", image_size=72, workers=workers)
        assert isinstance(data.train, Streamed)
        return data.train

    return make


def augmented(examples, augment, seed=0, epoch=0):
    ((x, y),) = examples.batches([torch.arange(len(examples))], seed, epoch, augment)
    assert torch.equal(y, examples.labels)
    return x


def raw(x):
    """The pixels of normalized images, as whole numbers."""
    return (x * STD[: x.shape[1]] + MEAN[: x.shape[1]]).round().int().numpy()


# What is done


def candidates(image, flips, crops, height=32, width=32):
    """All images, (C, H, W), that flip and crop can make of one, by what makes them, with NumPy's padding."""
    up, left = (height // 8, width // 8) if crops else (0, 0)
    padded = np.pad(image, ((0, 0), (up, up), (left, left)), mode="reflect")
    for y in range(2 * up + 1):
        for x in range(2 * left + 1):
            cut = padded[:, y : y + height, x : x + width]
            for flipped in (False, True) if flips else (False,):
                yield (flipped, y, x), cut[:, :, ::-1] if flipped else cut


@pytest.mark.parametrize("augment", [(), ("flip",), ("crop",), ("crop", "flip"), ("flip", "crop")])
@pytest.mark.parametrize("channels", [1, 3])
def test_flip_and_crop(augment, channels):
    """Sees a wrong border, channels that part, another image's pixels, or moves that never or too often happen."""
    examples = resident(channels=channels)
    seen = []
    for image, result in zip(examples.images.numpy(), raw(augmented(examples, augment)), strict=True):
        made = [
            key for key, one in candidates(image, "flip" in augment, "crop" in augment) if np.array_equal(one, result)
        ]
        assert len(made) == 1
        seen += made
    flips, y, x = (np.array(column) for column in zip(*seen, strict=True))
    if "flip" in augment:
        assert 160 < flips.sum() < 240
    if "crop" in augment:
        for offsets in (y, x):
            assert np.bincount(offsets, minlength=9).min() > 20  # of 400 / 9
        assert abs(np.corrcoef(y, x)[0, 1]) < 0.2
    if augment and "flip" in augment and "crop" in augment:
        assert abs(np.corrcoef(x, flips)[0, 1]) < 0.2


def test_crop_of_other_sizes():
    """Sees an image of another height than width that is cut as if it were square."""
    examples = resident(30, (16, 24))
    for image, result in zip(examples.images.numpy(), raw(augmented(examples, ["crop"])), strict=True):
        assert any(np.array_equal(one, result) for _, one in candidates(image, False, True, 16, 24))


@pytest.mark.parametrize("size", [(32, 32), (9, 8)])
def test_cutout(size):
    """Sees a square of another size or color than the mean's, one that is always inside, or part of the image lost."""
    examples = resident(size=size)
    plain, cut = augmented(examples, ()), augmented(examples, ["cutout"])
    height, width = size
    side = height // 2
    centers = []
    for before, after in zip(plain.numpy(), cut.numpy(), strict=True):
        possible = []
        for y in range(height):
            for x in range(width):
                oracle = before.copy()
                top, left = y - side // 2, x - side // 2
                oracle[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
                if np.array_equal(oracle, after):
                    possible.append((y, x))
        assert len(possible) == 1
        centers += possible
    for column, extent in zip(zip(*centers, strict=True), size, strict=True):
        assert set(column) == set(range(extent))


@pytest.mark.parametrize("channels", [1, 3])
def test_autoaugment(channels):
    """Sees the policy left out, one draw for all images, or images of another range."""
    examples = resident(60, channels=channels)
    plain, changed = raw(augmented(examples, ())), raw(augmented(examples, ["autoaugment"]))
    assert changed.shape == plain.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    same = [np.array_equal(one, other) for one, other in zip(plain, changed, strict=True)]
    assert 0 < sum(same) < 40
    twins = resident(60, channels=channels)
    twins.images[:] = twins.images[:1].clone()
    assert len({image.tobytes() for image in raw(augmented(twins, ["autoaugment"]))}) > 20


def test_the_order(streamed):
    """Sees augmentations that depend on the order of their names, or a gap of cutout that is moved or colored."""
    for examples in (resident(20), streamed()):
        x = augmented(examples, EVERYTHING)
        assert torch.equal(x, augmented(examples, EVERYTHING[::-1]))
        holes = (x == 0).all(1).flatten(1).sum(1)
        assert (holes >= (x.shape[2] // 4) ** 2).all()


def test_cropping_large_images(streamed):
    """Sees a random crop that is the middle, or a flip and a cutout left out of large images."""
    examples = streamed()
    plain = augmented(examples, ())
    for augment in (["crop"], ["autoaugment"]):
        changed = augmented(examples, augment)
        assert changed.shape == plain.shape == (12, 3, 72, 72)
        assert (changed != plain).any((1, 2, 3)).sum() > 6
    flipped = augmented(examples, ["flip"])
    turned = [torch.equal(one, other.flip(2)) for one, other in zip(flipped, plain, strict=True)]
    assert 2 <= sum(turned) <= 10
    assert torch.equal(flipped[~torch.tensor(turned)], plain[~torch.tensor(turned)])
    cut = augmented(examples, ["cutout"])
    assert ((cut == plain) | (cut == 0)).all()
    assert (cut == 0).all(1).flatten(1).sum(1).min() >= 18**2


# What it depends on


@pytest.mark.parametrize("augment", [(), ("flip",), ("crop",), ("cutout",), ("autoaugment",), EVERYTHING])
@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_an_image_belongs_to_seed_epoch_and_row(kind, augment, streamed):
    """Sees an image that depends on its batch, on those before it, on the rank, or on the generators' state."""
    examples = resident(40) if kind == "resident" else streamed()
    whole = augmented(examples, augment, seed=3, epoch=5)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(1))
    torch.rand(11)
    resumed = order[len(order) // 2 :]
    parts = [resumed[0::2], resumed[1::2], resumed[:1]]
    for rows, (x, y) in zip(parts, examples.batches(parts, 3, 5, augment), strict=True):
        assert torch.equal(x, whole[rows])
        assert torch.equal(y, examples.labels[rows])
    for seed, epoch in ((3, 6), (4, 5), (5, 3)):
        assert torch.equal(augmented(examples, augment, seed, epoch), whole) == (not augment)


def test_workers_make_the_same_images(streamed):
    """Sees images that depend on which process makes them, or batches in another order."""
    rows = list(torch.randperm(12, generator=torch.Generator().manual_seed(1)).split(3))
    alone, shared = (list(streamed(workers).batches(rows, 1, 2, EVERYTHING)) for workers in (0, 2))
    assert len(alone) == len(shared) == 4
    for (x, y), (other_x, other_y) in zip(alone, shared, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_augmentation_leaves_the_generators_alone(streamed):
    """Sees augmentation change what dropout and initial weights draw from the global generators."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    for examples in (resident(8), streamed(), streamed(2)):
        augmented(examples, EVERYTHING)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_images_themselves_stay():
    """Sees an augmentation that works in the place of the images, and piles up over the epochs."""
    examples = resident(40)
    before = examples.images.clone()
    augmented(examples, EVERYTHING)
    assert torch.equal(examples.images, before)


def test_no_waiting_for_the_device():
    """Sees a batch that is made with numbers from the device, which would wait for it: the device meta has none."""
    examples = resident(40).to("meta")
    rows = list(torch.arange(40).split(8))
    for x, y in examples.batches(rows, augment=["flip", "crop", "cutout"]):
        assert x.device.type == y.device.type == "meta"
        assert x.shape == (8, 3, 32, 32)


def test_names():
    """Sees a misspelled augmentation that is left out in silence, or torchvision needed to read the names."""
    check_augmentations(["flip", "autoaugment"])
    for examples in (resident(2), None):
        with pytest.raises(
            ValueError, match=r"^augment = mixup is unknown: choose from flip, .*, autoaugment, and join them by \+$"
        ):
            names = ["flip", "mixup"]
            check_augmentations(names) if examples is None else augmented(examples, names)
    code = "import sys; sys.modules['torchvision'] = None; from sharpless.lab.tasks.images.augment import policy\n"
    code += "try:\n    policy()\nexcept ModuleNotFoundError as error:\n    print(error)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "autoaugment needs torchvision: pip install 'sharpless[data]'\n"
