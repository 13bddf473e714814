"""The networks: what they are made of, held to published counts, to counts by hand and to other implementations."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, cross_entropy, relu

from sharpless import SAM
from sharpless.lab.tasks.images.networks import build, check
from sharpless.lab.tasks.images.networks.pyramidnet import ShakeDrop

SMALL = ["convnet", "convnet-groupnorm", "convnet-strided", "vit"]
# One of each kind of block, narrow or shallow enough for a forward and a backward pass here.
TINY = ["resnet18", "resnet50", "wrn-10-1", "wrn-16-2", "vgg16-bn", "pyramidnet-8,alpha=6", "pyramidnet-119,alpha=39"]


def network(spec, classes=10, channels=3, width=16):
    return build(spec, classes=classes, channels=channels, width=width)


def without_memory(spec, **data):
    """The network on the meta device: shapes, and no numbers."""
    with torch.device("meta"):
        return network(spec, **data)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


# What others count, exactly, for 10 classes and 3 channels: ResNet and VGG in Table 7 of NeuralFuse (arXiv 2306.16869,
# github.com/kuangliu/pytorch-cifar's networks), whose VGG has biases before BatchNorm, and wide ResNets and PyramidNet
# in the table of CIFAR-10 in github.com/osmr/imgclsmob, pytorch/README.md.
PUBLISHED = {
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "vgg11-bn": 9_231_114 - (64 + 128 + 2 * 256 + 4 * 512),
    "vgg16-bn": 14_728_266 - (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512),
    "vgg19-bn": 20_040_522 - (2 * 64 + 2 * 128 + 4 * 256 + 8 * 512),
    "wrn-16-10": 17_116_634,
    "wrn-28-10": 36_479_194,
    "wrn-40-8": 35_748_314,
    "pyramidnet-110,alpha=48": 1_772_706,
    "pyramidnet-110,alpha=84": 3_904_446,
    "pyramidnet-110": 28_485_477,
    "pyramidnet-110,shakedrop=0.5": 28_485_477,
    "pyramidnet-164": 27_216_021,
    "pyramidnet-236": 26_969_046,
    "pyramidnet-272": 26_210_842,
}
# What the papers say, in millions: 2.749 is cut off to 2.7, 36.479 is rounded to 36.5, and the tables of PyramidNet are
# 0.5 to 4.1 % below what its authors' code builds.
IN_THE_PAPER = {
    "wrn-16-4": 2.7,
    "wrn-28-10": 36.5,
    "pyramidnet-110,alpha=48": 1.7,
    "pyramidnet-110,alpha=84": 3.8,
    "pyramidnet-110,alpha=270": 28.3,
    "pyramidnet-164": 27.0,
    "pyramidnet-200": 26.6,
    "pyramidnet-236": 26.8,
    "pyramidnet-272": 26.0,
}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_published_counts(spec):
    """Sees a layer too many or too few, another width, a bias before BatchNorm, another default α."""
    assert count(without_memory(spec)) == PUBLISHED[spec]


@pytest.mark.parametrize("spec", IN_THE_PAPER)
def test_counts_in_the_paper(spec):
    """Sees another network than the paper's behind its name, or bottlenecks in place of basic blocks."""
    assert 1e6 * IN_THE_PAPER[spec] == pytest.approx(count(without_memory(spec)), rel=0.042)


def resnet_by_hand(depth, classes, channels):
    blocks, bottleneck = {
        18: ([2, 2, 2, 2], False),
        34: ([3, 4, 6, 3], False),
        50: ([3, 4, 6, 3], True),
        101: ([3, 4, 23, 3], True),
        152: ([3, 8, 36, 3], True),
    }[depth]
    total, before = channels * 64 * 9 + 128, 64
    for stage, number in enumerate(blocks):
        w = 64 * 2**stage
        out = 4 * w if bottleneck else w
        for inputs in [before] + [out] * (number - 1):
            total += inputs * w + 9 * w * w + w * out + 4 * w + 2 * out if bottleneck else 9 * w * (inputs + w) + 4 * w
        if before != out:
            total += before * out + 2 * out
        before = out
    return total + (before + 1) * classes


def wrn_by_hand(depth, k, classes, channels):
    n, total, before = (depth - 4) // 6, channels * 16 * 9, 16
    for w in (16 * k, 32 * k, 64 * k):
        total += 9 * before * w + 2 * before + (9 * w * w + 2 * w) + (before * w if before != w else 0)
        total += (n - 1) * 2 * (9 * w * w + 2 * w)
        before = w
    return total + 2 * before + (before + 1) * classes


def vgg16_by_hand(classes, channels):
    pairs = [(channels, 64), (64, 64), (64, 128), (128, 128), (128, 256)] + [(256, 256)] * 2 + [(256, 512)]
    pairs += [(512, 512)] * 5
    return sum(9 * i * o + 2 * o for i, o in pairs) + 513 * classes


def pyramidnet_by_hand(depth, alpha, classes, channels):
    bottleneck = depth > 110
    blocks = (depth - 2) // (3 if bottleneck else 2)
    total, before = channels * 16 * 9 + 32, 16
    for k in range(1, blocks + 1):
        w = (2 * (16 * blocks + k * alpha) + blocks) // (2 * blocks)  # 16 + kα/blocks, rounded without floats
        if bottleneck:
            total += 2 * before + before * w + 2 * w + 9 * w * w + 2 * w + 4 * w * w + 8 * w
        else:
            total += 2 * before + 9 * before * w + 2 * w + 9 * w * w + 2 * w
        before = 4 * w if bottleneck else w
    return total + 2 * before + (before + 1) * classes


@pytest.mark.parametrize(
    ("spec", "by_hand", "shape"),
    [
        ("resnet18", resnet_by_hand, (18,)),
        ("resnet34", resnet_by_hand, (34,)),
        ("resnet50", resnet_by_hand, (50,)),
        ("resnet101", resnet_by_hand, (101,)),
        ("resnet152", resnet_by_hand, (152,)),
        ("wrn-10-1", wrn_by_hand, (10, 1)),
        ("wrn-16-4", wrn_by_hand, (16, 4)),
        ("wrn-28-10", wrn_by_hand, (28, 10)),
        ("vgg16-bn", vgg16_by_hand, ()),
        ("pyramidnet-110,alpha=27", pyramidnet_by_hand, (110, 27)),
        ("pyramidnet-110", pyramidnet_by_hand, (110, 270)),
        ("pyramidnet-200", pyramidnet_by_hand, (200, 240)),
        ("pyramidnet-272", pyramidnet_by_hand, (272, 200)),
    ],
)
@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (100, 1)])
def test_counts_by_hand(spec, by_hand, shape, classes, channels):
    """Sees what the published counts cannot: classes or channels wired in, and halves rounded to even."""
    assert count(without_memory(spec, classes=classes, channels=channels)) == by_hand(*shape, classes, channels)


@pytest.mark.parametrize(
    ("spec", "convolutions", "norms", "features"),
    [
        ("resnet18", 17 + 3, 20, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        ("resnet50", 49 + 4, 53, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("wrn-16-4", 16, 13, [(64, 32), (128, 16), (256, 8)]),
        ("wrn-28-10", 28, 25, [(160, 32), (320, 16), (640, 8)]),
        ("pyramidnet-110", 109, 164, [(106, 32), (196, 16), (286, 8)]),
        ("pyramidnet-272", 271, 362, [(332, 32), (596, 16), (864, 8)]),
    ],
)
def test_layers_and_stages(spec, convolutions, norms, features):
    """Sees a stride at the wrong place, a stem that halves the image, and biases that BatchNorm would cancel."""
    model = without_memory(spec)
    found = []
    for stage in model.stages:
        stage.register_forward_hook(lambda *call: found.append(tuple(call[2].shape[1:3])))
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
    assert found == features
    assert len(layers(model, nn.Conv2d)) == convolutions
    assert len(layers(model, nn.BatchNorm2d)) == norms
    assert len(layers(model, nn.Linear)) == 1
    assert all(layer.bias is None for layer in layers(model, nn.Conv2d))


@pytest.mark.parametrize(("pixels", "sizes"), [(32, [16, 8, 4, 2, 1]), (28, [14, 7, 4, 2, 1]), (8, [4, 2, 1, 1, 1])])
def test_stages_of_vgg(pixels, sizes):
    """Sees a pooling that leaves nothing of a small image, and another number of convolutions between poolings."""
    model = without_memory("vgg16-bn")
    found = []
    for layer in layers(model, nn.MaxPool2d):
        layer.register_forward_hook(lambda *call: found.append(call[2].shape[2]))
    model(torch.empty(2, 3, pixels, pixels, device="meta"))
    assert found == sizes
    kinds = "".join(
        {nn.Conv2d: "c", nn.BatchNorm2d: "n", nn.ReLU: "r", nn.MaxPool2d: "P"}.get(type(m), "") for m in model
    )
    assert kinds == "P".join("cnr" * number for number in (2, 2, 3, 3, 3)) + "P"
    assert all(layer.bias is None for layer in layers(model, nn.Conv2d))


def disturb(model):
    """Give BatchNorm scales, shifts and statistics that no two layers share, so that no order can be confused."""
    torch.manual_seed(1)
    for layer in layers(model, nn.BatchNorm2d):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias)
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("spec", ["resnet18", "resnet50", "vgg16-bn"])
def test_torchvision_computes_the_same(spec):
    """Sees an order of layers, a stride or a shortcut that differs from torchvision's, with the stem of CIFAR."""
    import torchvision

    torch.manual_seed(0)
    ours = disturb(network(spec))
    if spec == "vgg16-bn":
        theirs = torchvision.models.vgg16_bn(num_classes=10)
        theirs.avgpool, theirs.classifier = nn.Identity(), nn.Linear(512, 10)
        for layer in layers(theirs.features, nn.Conv2d):
            layer.bias = None
    else:
        theirs = getattr(torchvision.models, spec)(num_classes=10)
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    values = list(ours.state_dict().values())
    assert [value.shape for value in values] == [value.shape for value in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.eval()(images))


def norm(layer, x):
    return batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-5)


@torch.no_grad()
def wrn_step_by_step(model, x):
    """The formulas of the paper on the parameters in the order of their use."""
    convolutions, norms = iter(layers(model, nn.Conv2d)), iter(layers(model, nn.BatchNorm2d))
    x = conv2d(x, next(convolutions).weight, padding=1)
    for stage in range(3):
        for block in range(2):
            stride = 2 if stage and not block else 1
            active = relu(norm(next(norms), x))
            branch = relu(norm(next(norms), conv2d(active, next(convolutions).weight, None, stride, 1)))
            branch = conv2d(branch, next(convolutions).weight, padding=1)
            x = branch + (x if block else conv2d(active, next(convolutions).weight, None, stride))
    x = relu(norm(next(norms), x)).mean((2, 3))
    return x @ layers(model, nn.Linear)[0].weight.T


@torch.no_grad()
def pyramidnet_step_by_step(model, x, blocks, bottleneck):
    convolutions, norms = iter(layers(model, nn.Conv2d)), iter(layers(model, nn.BatchNorm2d))
    x = norm(next(norms), conv2d(x, next(convolutions).weight, padding=1))
    for k in range(3 * blocks):
        strides = [2 if k in {blocks, 2 * blocks} else 1, 1]
        branch = norm(next(norms), x)
        for i, stride in enumerate([1, *strides] if bottleneck else strides):
            branch = conv2d(
                branch if i == 0 else relu(branch), (w := next(convolutions).weight), None, stride, w.shape[2] // 2
            )
            branch = norm(next(norms), branch)
        shortcut = avg_pool2d(x, 2) if strides[0] == 2 else x
        branch[:, : x.shape[1]] += shortcut
        x = branch
    return relu(norm(next(norms), x)).mean((2, 3)) @ layers(model, nn.Linear)[0].weight.T


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [
        ("wrn-16-2", wrn_step_by_step),
        ("pyramidnet-20,alpha=9", lambda model, x: pyramidnet_step_by_step(model, x, 3, False)),
        ("pyramidnet-119,alpha=39", lambda model, x: pyramidnet_step_by_step(model, x, 13, True)),
    ],
)
def test_step_by_step(spec, by_hand):
    """Sees activations after instead of before convolutions, or a shortcut taken or cut down at another place."""
    torch.manual_seed(0)
    model = disturb(network(spec)).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(images), by_hand(model, images))


@pytest.mark.parametrize("spec", ["resnet18", "wrn-16-4", "vgg16-bn", "pyramidnet-56,alpha=270"])
def test_initialization(spec):
    """Sees PyTorch's default initialization, and a deviation from that of He et al."""
    torch.manual_seed(0)
    model = network(spec)
    for layer in layers(model, nn.Conv2d):
        expected = (2 / (layer.out_channels * layer.kernel_size[0] ** 2)) ** 0.5
        # Five standard errors of the standard deviation of so many normal numbers.
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=5 * (2 * layer.weight.numel()) ** -0.5)
    for layer in layers(model, nn.BatchNorm2d):
        assert bool(layer.weight.eq(1).all())
        assert not layer.bias.any()
    assert not layers(model, nn.Linear)[0].bias.any()


@pytest.mark.parametrize("spec", [*TINY, "pyramidnet-8,alpha=6,shakedrop=0.5"])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (4, 17, 23)])
def test_other_images(spec, channels, height, width):
    """Sees a size wired in, odd sizes that shortcut and branch round differently, and a layer that is never used."""
    torch.manual_seed(0)
    model = network(spec, classes=7, channels=channels)
    logits = model(torch.randn(2, channels, height, width))
    assert logits.shape == (2, 7)
    cross_entropy(logits, torch.tensor([1, 3])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert "shakedrop" in spec or parameter.grad.any(), name


@pytest.mark.parametrize("spec", SMALL)
def test_small_networks(spec):
    """Sees width, classes or channels in each other's place."""
    assert network(spec, classes=7, channels=2, width=32)(torch.randn(2, 2, 8, 8)).shape == (2, 7)
    assert count(network(spec, width=32)) > 2 * count(network(spec, width=16))
    assert isinstance(network(spec).get_submodule("0" if spec != "vit" else "patches"), nn.Conv2d)


# ShakeDrop


def shaken(survival, examples=20_000):
    """The coefficients that examples met forward and backward, (N,) each."""
    torch.manual_seed(0)
    x = torch.ones(examples, 2, 3, requires_grad=True)
    y = ShakeDrop(survival)(x)
    state = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    forward, backward = y.detach(), x.grad
    for coefficients in (forward, backward):
        assert torch.equal(coefficients, coefficients[:, :1, :1].expand_as(coefficients))  # one for each example
    return forward[:, 0, 0], backward[:, 0, 0]


def test_shakedrop_in_training():
    """Sees other ranges than (−1, 1) and (0, 1), the same coefficient both ways, one gate for all, or late draws."""
    forward, backward = shaken(0.6)
    passed = forward == 1
    assert torch.equal(passed, backward == 1)
    assert float(passed.float().mean()) == pytest.approx(0.6, abs=0.02)
    alpha, beta = forward[~passed], backward[~passed]
    for noise, low, high in ((alpha, -1, 1), (beta, 0, 1)):
        assert low <= noise.min() < low + 0.01
        assert high - 0.01 < noise.max() <= high
        assert float(noise.mean()) == pytest.approx((low + high) / 2, abs=0.03)
        assert float(noise.var()) == pytest.approx((high - low) ** 2 / 12, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([alpha, beta]))[0, 1])) < 0.04


def test_shakedrop_in_evaluation():
    """Sees a test-time factor that is not the mean of training's, or noise at test time."""
    layer = ShakeDrop(0.7).eval()
    x = torch.randn(5, 4, requires_grad=True)
    state = torch.get_rng_state()
    layer(x).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer(x), 0.7 * x)
    assert torch.equal(x.grad, torch.full_like(x, 0.7))
    assert float(shaken(0.7)[0].mean()) == pytest.approx(0.7, abs=0.015)


def test_shakedrop_that_never_shakes():
    """Sees a network changed by a ShakeDrop of probability 0, and a survival of 1 that shakes."""
    forward, backward = shaken(1.0)
    assert forward.eq(1).all()
    assert backward.eq(1).all()
    assert not layers(without_memory("pyramidnet-110,shakedrop=0"), ShakeDrop)
    plain, never = (
        (torch.manual_seed(0), network(f"pyramidnet-8,alpha=6{more}"), torch.rand(1)) for more in ("", ",shakedrop=0.0")
    )
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain[1](x), never[1](x))


def test_shakedrop_grows_linearly():
    """Sees the first block shaken as the last, an off-by-one in the decay, and a branch not shaken at its end."""
    model = without_memory("pyramidnet-110,shakedrop=0.5")
    assert [layer.survival for layer in layers(model, ShakeDrop)] == pytest.approx(
        [1 - 0.5 * k / 54 for k in range(1, 55)]
    )
    assert all(isinstance(block.branch[-1], ShakeDrop) for stage in model.stages for block in stage)
    assert repr(layers(network("pyramidnet-8,alpha=6,shakedrop=1"), ShakeDrop)[-1]) == "ShakeDrop(survival=0)"


def test_shakedrop_is_the_same_in_both_passes_of_sam():
    """Sees noise of the second pass that differs, forward or backward, or that is the same at the next step."""
    torch.manual_seed(0)
    model = network("pyramidnet-8,alpha=6,shakedrop=0.9")
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model)
    met = []
    for layer in layers(model, ShakeDrop):
        layer.register_forward_hook(lambda _, x, y: met[-1].append((y / x[0]).flatten(1).nanmedian(1).values.detach()))
        layer.register_full_backward_hook(
            lambda _, dx, dy: met[-1].append((dx[0] / dy[0]).flatten(1).nanmedian(1).values)
        )
    for _ in range(2):
        for x, y in opt.passes((torch.randn(8, 3, 8, 8), torch.arange(8))):
            met.append([])
            cross_entropy(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    first, second, third, fourth = (torch.stack(coefficients) for coefficients in met)
    assert first.shape == (6, 8)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(third, fourth)
    assert not torch.allclose(first, third, atol=0.1)


# What a spec may be


def test_timm():
    """Sees arguments lost or read as texts, and classes or channels that timm does not learn of."""
    import timm

    small = "img_size=32,patch_size=4,embed_dim=48,num_heads=3,depth=2"
    model = network(f"timm:vit_small_patch16_224,{small}", classes=7, channels=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert count(model) == (16 + 1) * 48 + 48 + 65 * 48 + 2 * (12 * 48 * 48 + 13 * 48) + 2 * 48 + 49 * 7
    values = "img_size=(32, 16), patch_size=4,embed_dim=48,num_heads=3,depth=1,global_pool=avg"
    model = network(f"timm:vit_small_patch16_224,{values}")
    assert model.patch_embed.grid_size == (8, 4)
    assert model.global_pool == "avg"
    assert isinstance(network("timm:resnet10t"), timm.models.ResNet)
    with pytest.raises(ValueError, match=r"^network = timm:resnet10t,size=3 does not take these arguments: .*'size'$"):
        network("timm:resnet10t,size=3")


FACTORIES = """
import torch
from torch import nn

def linear(classes, inputs=4, *, bias=True, name=None):
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes, bias))
    model.name = name
    return model

def nothing(classes):
    return classes

number = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to run in, with modules of the user's."""
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    (tmp_path / "my_broken.py").write_text("import no_such_package\n")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "inner.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize("module", ["my_factories", "my_package.inner"])
def test_a_factory_of_the_users(here, module):
    """Sees a module in the current folder that is not found, and arguments lost or not read."""
    check(f"{module}:linear")
    model = network(f"{module}:linear,inputs=6,bias=False,name=a", classes=3)
    assert model(torch.ones(2, 6)).shape == (2, 3)
    assert model[1].bias is None
    assert model.name == "a"
    assert network(f"{module}:linear, name=(1, 2)").name == (1, 2)
    with pytest.raises(ValueError, match="made int: let the factory return a"):
        network(f"{module}:nothing")


def test_a_console_script_finds_the_module(here):
    """Sees the current folder missing where Python is started with that of the script in its place."""
    script = here / "bin" / "script.py"
    script.parent.mkdir()
    script.write_text("from sharpless.lab.tasks.images.networks import check\ncheck('my_factories:linear')\n")
    subprocess.run([sys.executable, script], check=True, cwd=here)


ERRORS = {
    "resnet": "network = resnet is unknown: give convnet, convnet-groupnorm, convnet-strided, vit, resnet18, "
    "wrn-28-10, vgg16-bn, pyramidnet-110, timm:NAME, or your module:factory",
    "": "network =  is unknown: give convnet,",
    "vgg16": "network = vgg16 is unknown: give convnet,",
    "resnet18x": "network = resnet18x is unknown: give convnet,",
    "resnet19": "network = resnet19: depth = 19 is no ResNet's: give 18, 34, 50, 101, 152, as in resnet18",
    "vgg17-bn": "network = vgg17-bn: depth = 17 is no VGG's: give 11, 13, 16, 19, as in vgg16-bn",
    "wrn-17-4": "network = wrn-17-4: depth = 17 is no wide ResNet's: give 6n + 4, as in wrn-16-4 or wrn-28-10",
    "wrn-4-4": "network = wrn-4-4: depth = 4 is no wide ResNet's: give 6n + 4, as in wrn-16-4 or wrn-28-10",
    "wrn-16-0": "network = wrn-16-0: widening = 0 is out of range: give 1 or more, as in wrn-16-4",
    "pyramidnet-111": "network = pyramidnet-111: depth = 111 is no PyramidNet's: give 6n + 2 up to 110 or 9n + 2 "
    "beyond, as in pyramidnet-110",
    "pyramidnet-2": "network = pyramidnet-2: depth = 2 is no PyramidNet's: give 6n + 2 up to 110",
    "pyramidnet-56": "network = pyramidnet-56: alpha is missing: the paper has no PyramidNet of depth 56, give "
    "the added channels",
    "pyramidnet-110,alpha=0": "network = pyramidnet-110,alpha=0: alpha = 0 is out of range: give a positive number of "
    "channels, such as 84",
    "pyramidnet-110,alpha=wide": "network = pyramidnet-110,alpha=wide: alpha = wide is out of range: give a positive",
    "pyramidnet-110,alpha=1e999": "network = pyramidnet-110,alpha=1e999: alpha = inf is out of range: give a positive",
    "pyramidnet-110,shakedrop=2": "network = pyramidnet-110,shakedrop=2: shakedrop = 2 is not a probability: give "
    "a number in [0, 1]",
    "pyramidnet-110,shakedrop=yes": "network = pyramidnet-110,shakedrop=yes: shakedrop = yes is not a probability",
    "pyramidnet-110,beta=1": "network = pyramidnet-110,beta=1 has an unknown argument beta: "
    "it takes alpha and shakedrop",
    "pyramidnet-110,depth=20": "network = pyramidnet-110,depth=20 has an unknown argument depth: it takes alpha and",
    "resnet18,alpha=1": "network = resnet18,alpha=1 has an unknown argument alpha: it takes none",
    "vit,depth=2": "network = vit,depth=2: vit takes no arguments, leave depth out",
    "resnet18,": "network = resnet18, cannot be read at '': write resnet18,argument=value, each once",
    "pyramidnet-110,84": "network = pyramidnet-110,84 cannot be read at '84': write pyramidnet-110,argument=value",
    "pyramidnet-110,alpha=": "network = pyramidnet-110,alpha= cannot be read at 'alpha=': write",
    "pyramidnet-110,alpha=1,alpha=2": "network = pyramidnet-110,alpha=1,alpha=2 cannot be read at 'alpha=2': write",
    "pyramidnet-110,a-b=1": "network = pyramidnet-110,a-b=1 cannot be read at 'a-b=1': write",
    "timm:no_such_net": f"network = timm:no_such_net is unknown to timm {version('timm')}: see timm.list_models()",
    "timm:resnet18,num_classes=3": "network = timm:resnet18,num_classes=3 gives num_classes, which the data set: "
    "leave it out",
    "timm:resnet18,in_chans=3": "network = timm:resnet18,in_chans=3 gives in_chans, which the data set: leave it",
    "no_such_module:f": "network = no_such_module:f: module 'no_such_module' cannot be imported (ModuleNotFoundError: "
    "No module named 'no_such_module'), run in its folder or install it",
    "my_broken:f": "network = my_broken:f: module 'my_broken' cannot be imported (ModuleNotFoundError: No module named "
    "'no_such_package'), fix it (",
    ":f": "network = :f: module '' cannot be imported (ValueError: Empty module name), run in",
    "my_factories:": "network = my_factories:: module 'my_factories' has no function '', name one that it has",
    "my_factories:no": "network = my_factories:no: module 'my_factories' has no function 'no', name one that it has",
    "my_factories:number": "network = my_factories:number: number(classes, argument=value, ...) cannot be called: 7",
    "my_factories:linear,size=3": "network = my_factories:linear,size=3: linear(classes, argument=value, ...) cannot "
    "be called: got an unexpected keyword argument 'size'",
    "my_factories:linear,classes=3": "network = my_factories:linear,classes=3: linear(classes, argument=value, ...) "
    "cannot be called: multiple values for argument 'classes'",
}


@pytest.mark.parametrize("spec", ERRORS)
def test_errors(here, spec):
    """Sees a spec that is accepted, fails only when it is built, or fails without saying what to give."""
    for call in (check, network):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            call(spec)
        assert str(error.value).startswith(ERRORS[spec])
        assert "\n" not in str(error.value)


def test_a_missing_timm(monkeypatch):
    """Sees a missing package reported without what to install."""
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (check, network):
        with pytest.raises(
            ModuleNotFoundError, match=r"^network timm:resnet18 needs timm: pip install 'sharpless\[timm\]'$"
        ):
            call("timm:resnet18")
    check("resnet18")


def test_check_builds_nothing(here, monkeypatch):
    """Sees a check that takes the time, the memory or the random numbers of the network."""
    check("my_factories:linear")
    monkeypatch.setattr(nn.Module, "__init__", lambda *_, **__: pytest.fail("a module was built"))
    for spec in [*SMALL, *TINY, *PUBLISHED, "timm:vit_small_patch16_224,img_size=32", "my_factories:linear,inputs=3"]:
        check(spec)


def test_timm_is_imported_when_it_is_needed():
    """Sees seconds of importing timm before any network is asked for."""
    code = "from sharpless.lab.tasks.images.networks import check; check('wrn-28-10'); import sys; "
    code += "assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
