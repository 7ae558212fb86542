"""A bundle: one zip file with everything that recognises actions in videos, written by ``python -m pipeline.export``.

    backbone.onnx     whole RGB frames, uint8 [N, H, W, 3] of any size, to features [N * views, feature_dim]
    head_step.onnx    features [B, feature_dim] and state to class probabilities [B, num_classes] and the next state
    model.json        ``Description``
    sample.npz        a few frames and their answers
    consume.py        reads a video with numpy, OpenCV and ONNX Runtime alone
    SHA256SUMS        the checksums of the others

A bundle may come from anybody. Nothing in it is executed except the two graphs, and these are standard operators
without loops, branches and other files. Nothing is unpacked to the disk. A graph can still compute for long and use
much memory, as any network can.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from data.errors import UserError
from models.cnn.preprocessing import VIEWS, Preprocessing
from pipeline.features.encoders import CPU_BATCH_FRAMES, Encoder, Pixels, open_network
from pipeline.features.recipe import FeatureRecipe
from pipeline.features.sampling import FrameSampling
from pipeline.recognizer.head import Array, Head, OnnxHead
from pipeline.settings.config import Config
from pipeline.settings.parsing import from_flat
from pipeline.training.clips import ClipSampling

FORMAT = 1
BACKBONE, HEAD, DESCRIPTION, SAMPLE, CONSUMER = (
    *("backbone.onnx", "head_step.onnx"),
    *("model.json", "sample.npz", "consume.py"),
)
SUMS = "SHA256SUMS"
_MAX_BYTES = {BACKBONE: 2**31, HEAD: 2**31, DESCRIPTION: 2**26, SAMPLE: 2**28, CONSUMER: 2**16, SUMS: 2**12}
SAMPLE_ARRAYS = ("frames", "features", "probabilities")
TOLERANCE = 1e-4
"""How far probabilities may differ from the run's."""
NEXT = "next_"
"""Prefix of the names of the state that ``head_step.onnx`` returns."""


class BundleError(UserError):
    """A bundle can't be used. The message says which and why."""


Width = Annotated[int, Field(ge=1, le=2**20)]
Name = Annotated[str, Field(pattern=r"^[a-z_0-9]{1,40}$")]


class Clips(BaseModel):
    """The arguments of ``ClipSampling``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    frames: Width | None
    stride: Width
    per_video: Annotated[int, Field(ge=1, le=10**9)]
    step: Width | None


class Description(BaseModel):
    """The content of ``model.json``.

    Attributes:
        run: name of the run.
        labels: class names, in the order of the probabilities.
        sampling: the frames to read of a video, as in ``FrameSampling``.
        clips: the clips that an evaluation scores a video by.
        views: the views of a frame that ``backbone.onnx`` returns features of; a stream uses the first.
        feature_dim: length of a feature vector.
        state: width of each array of the state; zeros ``[B, width]`` are sequences that have not begun.
        horizon: most frames that an answer should depend on, as in training; ``None``: those of a whole video.
        thresholds: probabilities at which an action begins and ends; a proposal, which no metric was measured with.
        temperature: what the scores are divided by, inside the graph.
        recipe: how the features are made.
        settings: the run's settings, without paths.
        split: the run's lists of videos.
        metrics: the run's evaluation, if it was evaluated.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal[1]
    run: Annotated[str, Field(max_length=255)]
    labels: Annotated[list[str], Field(min_length=1, max_length=2**16)]
    sampling: Annotated[str, Field(max_length=40)]
    clips: Clips
    views: Annotated[list[str], Field(min_length=1, max_length=len(VIEWS))]
    feature_dim: Width
    state: Annotated[dict[Name, Width], Field(min_length=1, max_length=200)]
    horizon: Width | None
    thresholds: dict[Name, FiniteFloat]
    temperature: FiniteFloat
    recipe: dict[str, Any]
    settings: dict[str, Any]
    split: dict[str, Any] | None
    metrics: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was read and checked.

    Attributes:
        path: where it was read from.
        sha256: of the whole file.
        sampling, clips, recipe, preprocessing, config: what ``description`` says, parsed.
        head: runs ``head_step.onnx``.
        backbone: ``backbone.onnx``.
        sample: frames uint8 ``[n, H, W, 3]``, their features float32 ``[n * views, D]``, and the probabilities after
            each frame ``[n, num_classes]``.
    """

    path: Path
    sha256: str
    description: Description
    sampling: FrameSampling
    clips: ClipSampling
    recipe: FeatureRecipe
    preprocessing: Preprocessing
    config: Config
    head: OnnxHead
    backbone: onnxruntime.InferenceSession
    sample: dict[str, npt.NDArray[Any]]

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.description.views)

    def encode(self, frames: npt.NDArray[np.uint8]) -> Array:
        """Features of whole frames, uint8 ``[N, H, W, 3]`` -> float32 ``[N * views, feature_dim]``."""
        (features,) = self.backbone.run(None, {"frames": np.ascontiguousarray(frames)})
        return np.asarray(features)

    def encoder(self) -> Encoder:
        """``encode`` as the encoder of whole frames that ``pipeline.features.extract`` uses."""

        def encode(features: Pixels) -> npt.NDArray[np.float16]:
            return np.asarray(features, dtype=np.float16)

        runtime = f"onnxruntime-{onnxruntime.__version__}"
        return Encoder(encode, CPU_BATCH_FRAMES, runtime, takes_whole_frames=True, stage=self.encode)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, and check its checksums and that it answers the sample as it says.

    Raises:
        BundleError: it is not a bundle, or is damaged.
        OSError: it can't be read.
    """
    if not path.is_file() or path.stat().st_size > sum(_MAX_BYTES.values()):
        raise BundleError(f"{path} is not a bundle: it is no plain file, or is too large.")
    return parse_bundle(path.read_bytes(), path)


def parse_bundle(content: bytes, path: Path) -> Bundle:
    """``read_bundle`` for the content of a file. ``path`` is for messages."""
    try:
        files = _unpack(content)
        description = Description.model_validate_json(files[DESCRIPTION])
        clips = ClipSampling(**dict(description.clips))
        sampling = FrameSampling.parse(description.sampling)
        recipe = FeatureRecipe.from_json(json.dumps(description.recipe))
        config = from_flat(Config, description.settings, DESCRIPTION)
        if len(set(description.labels)) < len(description.labels):
            raise ValueError("two classes have the same name")
        if tuple(description.views) != VIEWS[: len(description.views)]:
            raise ValueError(f"no such views: {description.views}")
        if not config.data.has_video or (config.data.root or config.features.weights) is not None:
            raise ValueError("its settings are not those of a bundle")
        names = ["probabilities", *(NEXT + name for name in description.state)]
        head = _network(files[HEAD], ["features", *description.state], names)
        backbone = _network(files[BACKBONE], ["frames"], ["features"])
        sample = _arrays(files[SAMPLE])
        bundle = Bundle(
            *(path, hashlib.sha256(content).hexdigest(), description, sampling, clips, recipe),
            *(_preprocessing(recipe), config, OnnxHead(head, description.state), backbone, sample),
        )
        _check_sample(bundle)
    except Exception as error:  # ONNX and ONNX Runtime raise many types for damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BundleError(
            f"{path} is not a bundle, or it is damaged ({reason}). Get it again, or export the run again: python -m "
            "pipeline.export RUN --to FILE.zip"
        ) from error
    return bundle


def _preprocessing(recipe: FeatureRecipe) -> Preprocessing:
    if recipe.interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"no such interpolation: {recipe.interpolation!r:.50}")
    (red, green, blue), (red_std, green_std, blue_std) = recipe.mean, recipe.std
    return Preprocessing(
        resize=int(recipe.resize),
        crop=int(recipe.crop),
        interpolation=cast(Literal["bilinear", "bicubic"], recipe.interpolation),
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        keep_aspect_ratio=bool(recipe.keep_aspect_ratio),
    )


def _unpack(content: bytes) -> dict[str, bytes]:
    """The files of a bundle, in memory. Raises ``ValueError`` if they are not exactly those, or are changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = sorted(member.filename for member in members)
        if names != sorted(_MAX_BYTES):
            raise ValueError(f"it contains {', '.join(names[:8])[:200]}, not {', '.join(sorted(_MAX_BYTES))}")
        for member in members:
            # Stored as they are, no file can be larger than the archive.
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{member.filename} is compressed")
            if member.file_size > _MAX_BYTES[member.filename] or member.flag_bits & 1:
                raise ValueError(f"{member.filename} is too large or encrypted")
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("its files overlap")
        files = {member.filename: archive.read(member) for member in members}
    if files[SUMS] != checksums(files):
        raise ValueError("its checksums do not match its files")
    return files


def checksums(files: dict[str, bytes]) -> bytes:
    """The content of ``SHA256SUMS``, as ``sha256sum --check`` reads it."""
    return "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files) if name != SUMS
    ).encode()


def _network(content: bytes, inputs: list[str], outputs: list[str]) -> onnxruntime.InferenceSession:
    """A graph with these inputs and outputs that reads nothing but itself. Raises ``ValueError`` for any other."""
    model = onnx.load_model_from_string(content)
    graph, own = model.graph, ("", "ai.onnx")
    if model.functions or model.training_info or any(entry.domain not in own for entry in model.opset_import):
        raise ValueError("a graph has functions or operators that are not ONNX's own")
    tensors, is_sparse = list(graph.initializer), bool(graph.sparse_initializer)
    for node in graph.node:
        if node.domain not in own:
            raise ValueError(f"a graph has an operator of the domain {node.domain[:50]}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError(f"a graph has a loop or a branch ({node.op_type[:50]})")
            is_sparse = is_sparse or attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)
            tensors += [attribute.t, *attribute.tensors]
    if is_sparse or any(tensor.external_data or tensor.data_location != tensor.DEFAULT for tensor in tensors):
        raise ValueError("a graph reads another file, or has a sparse tensor")
    session = open_network(content)
    found = [[value.name for value in values] for values in (session.get_inputs(), session.get_outputs())]
    if [sorted(found[0]), found[1]] != [sorted(inputs), outputs]:
        raise ValueError(f"a graph has the inputs and outputs {found}, not {[inputs, outputs]}")
    return session


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``npz`` file, as views of its bytes. Raises ``ValueError`` for anything but plain numbers."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in SAMPLE_ARRAYS):
            raise ValueError(f"{SAMPLE} contains other arrays than {', '.join(SAMPLE_ARRAYS)}")
        if any(member.compress_type or member.file_size > len(content) for member in archive.infolist()):
            raise ValueError(f"{SAMPLE} is compressed")
        for name in SAMPLE_ARRAYS:
            data = archive.read(f"{name}.npy")
            file = io.BytesIO(data)
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{name} of {SAMPLE} has another format")
            shape, is_fortran, kind = np.lib.format.read_array_header_1_0(file)
            if is_fortran or kind not in (np.uint8, np.float32):
                raise ValueError(f"{name} of {SAMPLE} has the type {kind}")
            arrays[name] = np.frombuffer(data, kind, offset=file.tell()).reshape(shape)
    return arrays


def _check_sample(bundle: Bundle) -> None:
    """Raise ``ValueError`` unless the bundle answers its sample as it says."""
    frames, features, probabilities = (bundle.sample[name] for name in SAMPLE_ARRAYS)
    description = bundle.description
    num_frames, num_views = len(frames), len(description.views)
    shapes: list[tuple[int, ...]] = [frames.shape[3:], features.shape, probabilities.shape]
    rows, num_classes = num_frames * num_views, len(description.labels)
    expected: list[tuple[int, ...]] = [(3,), (rows, description.feature_dim), (num_frames, num_classes)]
    if frames.dtype != np.uint8 or not 1 <= num_frames <= 64 or shapes != expected:
        raise ValueError(f"{SAMPLE} does not fit {DESCRIPTION}")
    found = bundle.encode(frames)
    if found.shape != features.shape or found.dtype != np.float32:
        raise ValueError(f"{BACKBONE} gives {found.dtype} {list(found.shape)}, not features")
    answers = answers_over_time(bundle.head, found[::num_views])
    if answers.shape != probabilities.shape:
        raise ValueError(f"{HEAD} gives {list(answers.shape)}, not probabilities")
    difference = float(np.abs(answers - probabilities).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"its answer to {SAMPLE} differs by {difference:.2g} from the run's")


def answers_over_time(head: Head, features: Array) -> Array:
    """The class probabilities after each frame of one sequence: ``[T, D]`` -> ``[T, num_classes]``."""
    state, answers = head.initial_state(1), []
    for frame in features:
        probabilities, state = head.step(frame[None], state)
        answers.append(probabilities[0])
    return np.stack(answers)
