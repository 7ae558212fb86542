"""A bundle from a stranger is used as it was written, or is refused with a message: never a traceback."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.recognizer.bundle import (
    BACKBONE,
    CONSUMER,
    DESCRIPTION,
    HEAD,
    SAMPLE,
    SAMPLE_ARRAYS,
    SUMS,
    BundleError,
    checksums,
    parse_bundle,
    read_bundle,
)
from tests.end_to_end.test_hostile_runs import mutated

Files = dict[str, bytes]
PATH = Path("stranger.zip")


def unzipped(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Files, compression: int = zipfile.ZIP_STORED, sums: bytes | None = None) -> bytes:
    """The files as a zip file, with fresh checksums: an attacker can compute them, too."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in ({**files, SUMS: sums or checksums(files)} if SUMS in files else files).items():
            archive.writestr(name, data)
    return content.getvalue()


def described(files: Files, **values: object) -> Files:
    return {**files, DESCRIPTION: json.dumps(json.loads(files[DESCRIPTION]) | values).encode()}


def with_setting(files: Files, **values: object) -> Files:
    return described(files, settings=json.loads(files[DESCRIPTION])["settings"] | values)


def with_recipe(files: Files, **values: object) -> Files:
    return described(files, recipe=json.loads(files[DESCRIPTION])["recipe"] | values)


def with_graph(files: Files, change: Callable[[onnx.ModelProto], object], name: str = HEAD) -> Files:
    model = onnx.load_model_from_string(files[name])
    change(model)
    return {**files, name: model.SerializeToString()}


def external(model: onnx.ModelProto) -> None:
    """A weight that is in /etc/passwd."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def external_attribute(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["x"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0]))
    external_tensor = node.attribute[0].t
    external_tensor.ClearField("float_data")
    external_tensor.data_location = TensorProto.EXTERNAL
    entry = external_tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    model.graph.node.append(node)


def loop(model: onnx.ModelProto) -> None:
    """A branch: loops have bodies of the same kind."""
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["features"], ["x"], then_branch=body, else_branch=body))


def custom(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Anything", ["features"], ["x"], domain="com.stranger"))


def renamed(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def header(shape: str, kind: str = "<f4") -> bytes:
    """An array that claims a shape and contains four bytes."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 4


def sample_of(frames: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in SAMPLE_ARRAYS:
            archive.writestr(f"{name}.npy", frames)
    return content.getvalue()


HOSTILE: dict[str, Callable[[Files], bytes]] = {
    "nothing": lambda files: b"",
    "text": lambda files: b"hello",
    "empty zip": lambda files: zipped({}),
    "path traversal": lambda files: zipped({**files, "../../evil.py": b"x"}),
    "absolute path": lambda files: zipped({**files, "/tmp/evil.py": b"x"}),
    "a file is missing": lambda files: zipped({name: data for name, data in files.items() if name != HEAD}),
    "bomb": lambda files: zipped({**files, CONSUMER: b"\0" * 10**8}, zipfile.ZIP_DEFLATED),
    "large consumer": lambda files: zipped({**files, CONSUMER: b"\0" * 10**6}),
    "other checksum": lambda files: zipped(files, sums=files[SUMS].replace(b"0", b"1")),
    "description is a list": lambda files: zipped({**files, DESCRIPTION: b"[1]"}),
    "description is nested": lambda files: zipped({**files, DESCRIPTION: b"[" * 100_000}),
    "description is not UTF-8": lambda files: zipped({**files, DESCRIPTION: b"\xff"}),
    "unknown key": lambda files: zipped(described(files, extra=1)),
    "another format": lambda files: zipped(described(files, format=2)),
    "no label": lambda files: zipped(described(files, labels=[])),
    "labels are numbers": lambda files: zipped(described(files, labels=[1, 2])),
    "one label twice": lambda files: zipped(described(files, labels=["left", "left"])),
    "more labels": lambda files: zipped(described(files, labels=["left", "right", "up"])),
    "huge state": lambda files: zipped(described(files, state={"num_steps": 10**12})),
    "other state": lambda files: zipped(described(files, state={"num_steps": 1})),
    "state with a path": lambda files: zipped(described(files, state={"../x": 1})),
    "no sampling": lambda files: zipped(described(files, sampling="every:0")),
    "many clips": lambda files: zipped(described(files, clips={"frames": 0, "stride": 1, "per_video": 1, "step": 0})),
    "other views": lambda files: zipped(described(files, views=["/etc"])),
    "infinite threshold": lambda files: zipped(
        {**files, DESCRIPTION: files[DESCRIPTION].replace(b'"enter": 0.6', b'"enter": 1e999')}
    ),
    "no recipe": lambda files: zipped(described(files, recipe={})),
    "other interpolation": lambda files: zipped(with_recipe(files, interpolation="x")),
    "mean of texts": lambda files: zipped(with_recipe(files, mean="ab")),
    "root": lambda files: zipped(with_setting(files, root="/etc")),
    "weights": lambda files: zipped(with_setting(files, weights="/etc/passwd")),
    "no video": lambda files: zipped(with_setting(files, dataset="addition", group_pattern=None, holdout_group=None)),
    "many layers": lambda files: zipped(with_setting(files, num_layers=10**6)),
    "graph is empty": lambda files: zipped({**files, HEAD: b""}),
    "graph is text": lambda files: zipped({**files, BACKBONE: b"x" * 1000}),
    "graphs are swapped": lambda files: zipped({**files, BACKBONE: files[HEAD], HEAD: files[BACKBONE]}),
    "external data": lambda files: zipped(with_graph(files, external)),
    "external attribute": lambda files: zipped(with_graph(files, external_attribute, BACKBONE)),
    "branch": lambda files: zipped(with_graph(files, loop)),
    "custom operator": lambda files: zipped(with_graph(files, custom)),
    "other input": lambda files: zipped(with_graph(files, renamed)),
    "sample is empty": lambda files: zipped({**files, SAMPLE: b""}),
    "sample is a pickle": lambda files: zipped({**files, SAMPLE: npz(**dict.fromkeys(SAMPLE_ARRAYS, np.array([{}])))}),
    "sample claims a terabyte": lambda files: zipped({**files, SAMPLE: sample_of(header("(10**12,)"))}),
    "sample claims a million million": lambda files: zipped({**files, SAMPLE: sample_of(header("(1000000, 1000000)"))}),
    "sample has texts": lambda files: zipped({**files, SAMPLE: sample_of(header("(1,)", "<U1"))}),
    "sample of objects": lambda files: zipped({**files, SAMPLE: sample_of(header("(1,)", "|O"))}),
    "other answers": lambda files: zipped({**files, SAMPLE: npz(**_arrays(files, np.float32(1e-3)))}),
}


def _arrays(files: Files, difference: np.float32) -> dict[str, Any]:
    with np.load(io.BytesIO(files[SAMPLE])) as arrays:
        return {**arrays, "probabilities": arrays["probabilities"] + difference}


REASONS = {
    "a file is missing": "it contains",
    "bomb": "is compressed",
    "other checksum": "checksums",
    "external data": "reads another file",
    "external attribute": "reads another file",
    "branch": "loop or a branch",
    "custom operator": "com.stranger",
    "sample of objects": "type object",
    "sample is a pickle": "type object",
    "sample claims a million million": "reshape",
    "other answers": "differs by 0.001",
    "root": "settings",
}


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_a_hostile_bundle_is_refused_for_its_own_reason(bundle: Path, name: str, reason: str) -> None:
    """The checks that keep other files and code out are those that refuse, not some other damage."""
    with pytest.raises(BundleError, match=reason):
        parse_bundle(HOSTILE[name](unzipped(bundle)), PATH)


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_bundle_is_refused(bundle: Path, make: Callable[[Files], bytes]) -> None:
    """Each is a ``BundleError`` that names the file; none is unpacked, executed or believed."""
    with pytest.raises(BundleError, match=r"stranger\.zip"):
        parse_bundle(make(unzipped(bundle)), PATH)


def test_a_bundle_is_read_as_it_was_zipped(bundle: Path) -> None:
    """The control: what the hostile ones are made of is accepted."""
    parse_bundle(zipped(unzipped(bundle)), PATH)


def test_a_folder_is_not_a_bundle(tmp_path: Path) -> None:
    """Neither is a pipe or a device, which could block for ever."""
    with pytest.raises(BundleError, match="no plain file"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="no plain file"):
        read_bundle(Path("/dev/zero"))


@pytest.mark.parametrize("number", [300, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_mutation_ends_in_a_traceback(bundle: Path, number: int) -> None:
    """A damaged bundle, with or without fresh checksums, is read or is a ``BundleError``; flips in weights show."""
    files, rng = unzipped(bundle), np.random.default_rng(number)
    names = [DESCRIPTION, DESCRIPTION, HEAD, HEAD, SAMPLE, BACKBONE]
    num_refused = 0
    for _ in range(number):
        if rng.random() < 0.3:
            content = mutated(zipped(files), rng)
        else:
            name = names[rng.integers(len(names))]
            content = zipped({**files, name: mutated(files[name], rng)})
        try:
            parse_bundle(content, PATH)
        except BundleError:
            num_refused += 1
    assert number / 2 < num_refused <= number
