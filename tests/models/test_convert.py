"""Weights cross between PyTorch's world and this one with every bit, and give the same logits."""

import json
import pickle
import sys
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from numeric import max_error, named_tensor
from safetensors.numpy import load_file, save_file
from tiny_runs import config_for, draw_photos

from apinet_jax.__main__ import run_command
from apinet_jax.evaluation import evaluate
from apinet_jax.method.types import TrainState
from apinet_jax.models import TRUNKS, variable_shapes
from apinet_jax.models.layers import normalise
from apinet_jax.models.weights import recognise
from apinet_jax.models.weights.hub import find_pretrained
from apinet_jax.models.weights.torch_names import torch_shapes
from apinet_jax.setup.build import make_network
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights

CLASSES, HIDDEN, WIDTH = 4, 16, 128
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.125)
IMAGES = {"mean": MEAN, "std": STD, "input_size": [3, 288, 288]}
DESCRIPTION = json.dumps({"architecture": "resnet10t", "pretrained_cfg": IMAGES})
CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def convert(*words):
    run_command(["convert", *map(str, words)])


def export(run, target, format_):
    run_command(["export", str(run), str(target), "--format", format_])


@pytest.fixture(autouse=True)
def few_trunks(monkeypatch):
    """Weights are compared with few trunks: the shapes of all take long to trace."""
    names = ("resnet10_w16", "resnet18", "resnet50", "squeezenet1_1", "vit_base_patch16_224")
    for known in ("TRUNKS", "LISTED_TRUNKS"):
        monkeypatch.setattr(recognise, known, {name: TRUNKS[name] for name in names})


def trunk_tensors(trunk="resnet10_w16"):
    """A state dict of torchvision's, without classifier and counters."""
    shapes = torch_shapes(variable_shapes(trunk))
    return {name: named_tensor(name, shape) for name, shape in shapes.items()}


def network_shapes(model):
    image = jnp.zeros((1, 64, 64, 3))
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)


def authors_tensors():
    """A state dict of the authors' program, over the small ResNet."""
    tensors = {}
    for name, tensor in trunk_tensors().items():
        child, _, rest = name.partition(".")
        tensors[f"conv.module.{CHILDREN[child]}.{rest}"] = tensor
        if rest.endswith("running_mean"):
            counter = rest.replace("running_mean", "num_batches_tracked")
            tensors[f"conv.module.{CHILDREN[child]}.{counter}"] = np.array(7)
    head = {"map1": (HIDDEN, 2 * WIDTH), "map2": (WIDTH, HIDDEN), "fc": (CLASSES, WIDTH)}
    for layer, shape in head.items():
        tensors[f"{layer}.weight"] = named_tensor(f"{layer}.weight", shape)
        tensors[f"{layer}.bias"] = named_tensor(f"{layer}.bias", shape[:1])
    return tensors


def assert_same_bits(found, expected):
    """But for the counters of BatchNorm, which nothing is computed with."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            assert found[name].shape == ()
        else:
            np.testing.assert_array_equal(found[name], tensor, err_msg=name, strict=True)


@pytest.fixture
def authors_file(tmp_path):
    save_file(authors_tensors(), tmp_path / "authors.safetensors")
    return tmp_path / "authors.safetensors"


def save_run(workdir, **fields):
    """A checkpoint as a run leaves it."""
    config = config_for("", **{"model__dtype": "float32", "model__remat": "none", **fields})
    model, _ = make_network(config, CLASSES)
    shapes = network_shapes(model)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    stats = variables.get("batch_stats", {})
    state = TrainState(jnp.array(3, jnp.int32), variables["params"], stats, ())
    with Checkpoints(workdir, keep=1) as checkpoints:
        names = [f"class{label}" for label in range(CLASSES)]
        checkpoints.save(state, {"config": config.to_dict(), "class_names": names})
    return workdir


@pytest.mark.parametrize("trunk", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_golden_authors_checkpoint(trunk, goldens_dir, tmp_path, capsys):
    """Logits from pixels, and all tensors back under the names that torch gave them."""
    golden = np.load(goldens_dir / f"authors_{trunk}.npz")
    tensors = {}
    for name, sides in zip(golden["names"], golden["shapes"], strict=True):
        shape = tuple(map(int, sides.split()))
        tensors[str(name)] = named_tensor(str(name), shape) if shape else np.array(7)
    save_file(tensors, tmp_path / "best.safetensors")
    convert(tmp_path / "best.safetensors", tmp_path / "ours")
    assert f"{trunk}, from " in capsys.readouterr().out

    weights = load_weights(tmp_path / "ours")
    config = ConfigDict(weights.metadata["config"])
    model, preprocess = make_network(config, len(weights.metadata["class_names"]))
    assert (config.model.trunk, config.model.hidden, config.data.crop) == (trunk, 512, 448)
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    logits = jax.jit(model.apply)(variables, normalise(jnp.asarray(golden["images"]), *preprocess))
    assert max_error(logits, golden["logits"]) < 1e-5

    export(tmp_path / "ours", tmp_path / "back.safetensors", "authors")
    assert_same_bits(load_file(tmp_path / "back.safetensors"), tensors)


def test_authors_checkpoint_is_evaluated(authors_file, tmp_path, capsys):
    names = tmp_path / "classes.txt"
    names.write_text("1 class0\n2 class1\n3 class2\n4 class3\n\n")  # as CUB writes them
    convert(authors_file, tmp_path / "run", "--class-names", names)
    assert f"--mode eval --workdir={tmp_path / 'run'}" in capsys.readouterr().out
    photos = draw_photos(tmp_path / "photos", train=1, test=1)
    summary = evaluate(tmp_path / "run", "last", config_for(photos, data__workers=0))
    assert summary.images == CLASSES


def test_trunk_for_model_pretrained(tmp_path):
    tensors = {**trunk_tensors(), "fc.weight": np.zeros((9, WIDTH), np.float32)}
    tensors["bn1.num_batches_tracked"] = np.array(7)
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_file(wrapped, tmp_path / "all.safetensors")
    convert(tmp_path / "all.safetensors", tmp_path / "trunk.safetensors", "--trunk=resnet10_w16")
    found = load_file(tmp_path / "trunk.safetensors")
    floats = {name: t for name, t in found.items() if not name.endswith("num_batches_tracked")}
    assert_same_bits(floats, trunk_tensors())
    assert len(found) - len(floats) == sum(name.endswith("running_mean") for name in found)


def test_trunk_of_a_run_carries_its_pixel_statistics(tmp_path):
    run = save_run(tmp_path / "run", model__mean=(0.5, 0.4, 0.3), model__std=(0.1, 0.2, 0.3))
    export(run / "checkpoints/3", tmp_path / "trunk.safetensors", "torchvision")
    found = find_pretrained(str(tmp_path / "trunk.safetensors"))
    assert (found.mean, found.std, found.size) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 32)
    tensors = load_file(tmp_path / "trunk.safetensors")
    assert all((tensors[name] == 1).all() for name in trunk_tensors("test_tiny"))
    assert not any(name.startswith("fc") for name in tensors)


@pytest.mark.parametrize(
    ("name", "config_file"), [("model.safetensors", "config.json"), ("t.safetensors", "t.json")]
)
def test_pixel_statistics_overwrite_nothing(name, config_file, tmp_path):
    run = save_run(tmp_path / "run", model__mean=(0.5, 0.4, 0.3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / config_file).write_text("precious")
    with pytest.raises(
        InputError, match=f"{config_file}, for the pixel statistics .* exists already"
    ):
        export(run, tmp_path / "out" / name, "torchvision")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [config_file]
    assert (tmp_path / "out" / config_file).read_text() == "precious"
    export(run, tmp_path / "new" / name, "torchvision")
    assert find_pretrained(str(tmp_path / "new" / name)).mean == (0.5, 0.4, 0.3)


def test_other_pixel_statistics_are_warned_about(tmp_path, capsys):
    run = save_run(tmp_path / "imagenet")
    export(run, tmp_path / "imagenet.safetensors", "authors")
    assert "WARNING" not in capsys.readouterr().err
    run = save_run(tmp_path / "run", model__mean=MEAN)
    export(run, tmp_path / "run.safetensors", "authors")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "WARNING" in line] == lines[-1:]
    assert "by mean (0.5, 0.4, 0.3) and std (0.229, 0.224, 0.225)" in lines[-1]


@pytest.mark.parametrize(
    ("source", "config_file"),
    [
        ("t.safetensors", "t.json"),
        ("model.safetensors", "config.json"),
        ("t.pth", "t.json"),
        ("pytorch_model.bin", "config.json"),
    ],
)
def test_configuration_is_converted_with_the_file(source, config_file, torch, tmp_path):
    path = tmp_path / source
    if path.suffix == ".safetensors":
        save_file(trunk_tensors(), path)
    else:
        torch.save({name: Tensor(tensor) for name, tensor in trunk_tensors().items()}, path)
    convert(path, tmp_path / "bare.safetensors")
    assert not (tmp_path / "bare.json").exists()
    (tmp_path / config_file).write_text(DESCRIPTION)
    convert(path, tmp_path / "new/birds.safetensors")
    found = find_pretrained(str(tmp_path / "new/birds.safetensors"))
    assert found[2:] == (MEAN, STD, 288, "resnet10t")
    (tmp_path / config_file).write_text("[]")
    with pytest.raises(InputError, match=f"{config_file} is not a timm configuration"):
        convert(path, tmp_path / "refused.safetensors")


def test_configuration_serves_source_and_result(torch, tmp_path):
    torch.save({k: Tensor(t) for k, t in trunk_tensors().items()}, tmp_path / "t.pth")
    (tmp_path / "t.json").write_text(DESCRIPTION)
    convert(tmp_path / "t.pth", tmp_path / "t.safetensors")
    assert find_pretrained(str(tmp_path / "t.safetensors")).mean == MEAN
    assert (tmp_path / "t.json").read_text() == DESCRIPTION


def test_pixel_statistics_of_a_network_are_those_of_its_run(authors_file, tmp_path):
    authors_file.with_suffix(".json").write_text(DESCRIPTION)
    convert(authors_file, tmp_path / "run")
    model = load_weights(tmp_path / "run").metadata["config"]["model"]
    assert (tuple(model["mean"]), tuple(model["std"])) == (MEAN, STD)


def test_bfloat16_becomes_float32(tmp_path):
    tensors = {name: jnp.asarray(t, jnp.bfloat16) for name, t in trunk_tensors().items()}
    save_file({name: np.asarray(t) for name, t in tensors.items()}, tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", tmp_path / "wide.safetensors")
    found = load_file(tmp_path / "wide.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.astype(np.float32), strict=True)


def test_refused_writes(tmp_path):
    """`/proc` refuses files, even those of root."""
    save_file(trunk_tensors(), tmp_path / "trunk.safetensors")
    with pytest.raises(RunError, match=r"Could not write /proc/out\.safetensors: No such file"):
        convert(tmp_path / "trunk.safetensors", "/proc/out.safetensors")
    with pytest.raises(
        InputError, match=r"folder .*trunk\.safetensors cannot be created \(File ex"
    ):
        convert(tmp_path / "trunk.safetensors", tmp_path / "trunk.safetensors/out.safetensors")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "softmax"}, "There is no map1 in this network.*format torchvision"),
        ({"model__trunk": "squeezenet1_1"}, "only has ResNets, .* has a layer features"),
    ],
)
def test_networks_unknown_to_the_authors_program(fields, message, tmp_path):
    run = save_run(tmp_path / "run", **fields)
    with pytest.raises(InputError, match=message):
        export(run, tmp_path / "out.safetensors", "authors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map2.bias": None}, r"head of the source .*1 missing: map2\.bias"),
        ({"map1.bias": None}, r"not of the authors' program: it has no map1\.bias"),
        ({"fc.weight": np.zeros((CLASSES, 64), np.float32)}, r"fc\.weight \(4, 64\) instead of"),
        ({"conv.module.9.weight": np.zeros(3, np.float32)}, r"nearest is resnet10_w16: .*9\.wei"),
        ({f"conv.{'9' * 5000}.a": np.zeros(3, np.float32)}, r"1 unexpected: conv\.9{5000}\.a"),
        ({"conv.module.1.bias": None}, r"authors\.safetensors: .*1 missing: bn1\.bias"),
        ({"extra.weight": np.zeros(3, np.float32)}, r"1 unexpected: extra\.weight"),
    ],
)
def test_network_that_differs_from_the_authors(change, message, tmp_path):
    tensors = {name: t for name, t in {**authors_tensors(), **change}.items() if t is not None}
    save_file(tensors, tmp_path / "authors.safetensors")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "authors.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model(tmp_path):
    save_file(trunk_tensors("squeezenet1_1"), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors: .*missing: bn1.*unexpected: features"):
        convert(tmp_path / "w.safetensors", tmp_path / "t.safetensors", "--trunk=resnet10_w16")
    with pytest.raises(InputError, match="no trunk named 'resnet'"):
        convert(tmp_path / "w.safetensors", tmp_path / "t.safetensors", "--trunk=resnet")
    save_file({"encoder.weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: .*none of the trunks resnet10"):
        convert(tmp_path / "other.safetensors", tmp_path / "t.safetensors")


def test_contradictory_arguments(authors_file, tmp_path):
    with pytest.raises(InputError, match=r"There is no .*none\.pth"):
        convert(tmp_path / "none.pth", tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        convert(authors_file, authors_file)
    with pytest.raises(InputError, match=r"apinet_jax export .* --format authors"):
        convert(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="is not a folder"):
        convert(authors_file, tmp_path / "out.safetensors")
    with pytest.raises(InputError, match=r"should end in \.safetensors, \.pth"):
        convert(authors_file, tmp_path / "out", "--to=torchvision")
    save_file(trunk_tensors(), tmp_path / "trunk.safetensors")
    for option in ("--class-names=n.txt", "--data=cub"):
        with pytest.raises(InputError, match=rf"{option.partition('=')[0]} has no effect here"):
            convert(tmp_path / "trunk.safetensors", tmp_path / "deep/out.safetensors", option)
    assert not (tmp_path / "deep").exists()
    with pytest.raises(InputError, match=r"holds a trunk, so .*should end in \.safetensors"):
        convert(tmp_path / "trunk.safetensors", tmp_path / "out.pth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "has 2 names, and the classifier 4 classes"),
        ("a\nb\nc\na\n", "names a class twice"),
        (None, "Cannot read the class names"),
    ],
)
def test_unsuitable_class_names(text, message, authors_file, tmp_path):
    if text:
        (tmp_path / "names.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        convert(authors_file, tmp_path / "run", "--class-names", tmp_path / "names.txt")


class Tensor:
    """What is used of a torch tensor."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def numpy(self):
        return self.array


class Sparse(Tensor):
    """One that NumPy cannot hold."""

    def float(self):
        return self

    def numpy(self):
        raise TypeError("can't convert Sparse layout tensor to numpy.\nUse to_dense()")


@pytest.fixture
def torch(monkeypatch):
    """Stands in for torch; benchmarks/authors_parity.py has the real one."""

    def load(path, *, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        return pickle.loads(path.read_bytes())

    module = ModuleType("torch")
    module.load = load
    module.save = lambda content, path: path.write_bytes(pickle.dumps(content))
    module.from_numpy = Tensor
    module.is_tensor = lambda value: isinstance(value, Tensor)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def test_torch_round_trip(torch, tmp_path):
    expected = authors_tensors()
    state = {name: Tensor(tensor) for name, tensor in expected.items()}
    state["fc.bias"] = Tensor(expected["fc.bias"].astype(np.float64))
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 100, "state_dict": state, "optimizer_fc": {"state": {}}}, path)
    convert(path, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "back.pth.tar", "authors")
    back = torch.load(tmp_path / "back.pth.tar", map_location="cpu", weights_only=True)
    assert list(back) == ["state_dict"]
    assert_same_bits({name: t.numpy() for name, t in back["state_dict"].items()}, expected)
    convert(path, tmp_path / "trunk.pth", "--to=torchvision")
    trunk = torch.load(tmp_path / "trunk.pth", map_location="cpu", weights_only=True)
    assert set(trunk_tensors()) < set(trunk)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "has no state dict but list"),
        ({}, "has no state dict but an empty one"),
        ({0: Tensor(np.zeros(1))}, "has no state dict: 0 is not the name of a tensor"),
        ({"a.weight": Sparse(np.zeros(1))}, r"the tensor a\.weight has no plain values \(can't"),
        ({"epoch": 3, "net": {}}, "has no state dict: epoch is a int"),
    ],
)
def test_torch_files_without_a_state_dict(content, message, torch, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "w.pth", tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            pickle.UnpicklingError(
                "Weights only load failed. Set it to False.\n"
                "\tWeightsUnpickler error: Unsupported global: GLOBAL posix.system was not allowed."
            ),
            "it contains posix.system",
        ),
        (RuntimeError("unexpected EOF. The file might be corrupted."), "unexpected EOF"),
        (EOFError(), "it is not a pickle"),
        (KeyError(101), "it is not a pickle"),
    ],
)
def test_torch_file_with_other_objects_is_refused(failure, reason, torch, tmp_path):
    def load(*_, weights_only, **__):
        assert weights_only
        raise failure

    torch.load = load
    (tmp_path / "w.pth").touch()
    message = rf"w\.pth is not a file of tensors \({reason}\).*may run code"
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "w.pth", tmp_path / "w.safetensors")


def test_missing_torch(authors_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").touch()
    for words in ((tmp_path / "w.pth", tmp_path / "out"), (authors_file, tmp_path / "t.pth")):
        with pytest.raises(InputError, match=r"needs PyTorch.*pip install 'apinet_jax\[torch\]'"):
            convert(*words, "--to=torchvision")
