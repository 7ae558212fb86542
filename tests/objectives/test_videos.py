"""One run's evaluation: which videos it takes, what it may be compared with, and when it need not be made again."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.records import DatasetError, Split, VideoDataset
from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.provenance import FORMAT, finished_metrics, run_digest, versions
from pipeline.evaluation.spectra import spectra
from pipeline.experiment import Evaluated, evaluate_run
from pipeline.objectives.videos import VideoTask, most_telling_first, videos_to_score
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides, RunConfig, TrainingConfig
from pipeline.settings.parsing import flags_of
from pipeline.training.loop import new_classifier
from pipeline.training.run import Run
from tests.end_to_end.test_experiment import CPU, make_moves, train_one
from tests.helpers.synthetic import make_record, make_task

RECORDS = tuple(make_record(f"v{number}") for number in range(8))
DATASET = VideoDataset(
    "moves",
    "moves",
    ("rise", "fall"),
    RECORDS,
    {
        "1": Split("1", RECORDS[:3], RECORDS[3:5], RECORDS[5:]),
        "2": Split("2", RECORDS[5:], (), RECORDS[1:4]),
        "3": Split("3", RECORDS[:3], RECORDS[3:5], RECORDS[6:]),
    },
)


@pytest.mark.parametrize(
    ("own", "asked", "expected", "told"),
    [
        ("1", None, RECORDS[5:], None),
        ("1", "1", RECORDS[5:], None),
        ("1", "validation", RECORDS[3:5], "validation videos, which the best epoch was chosen by"),
        ("1", "3", RECORDS[6:], "test videos of split 3"),
    ],
)
def test_the_list_asked_for_is_the_one_that_is_scored(
    own: str, asked: str | None, expected: object, told: str | None
) -> None:
    """The run's own test list unless another is asked for, and whatever else it is is said in words."""
    assert videos_to_score(DATASET, own, asked) == (expected, told)


@pytest.mark.parametrize(
    ("own", "asked", "message"),
    [
        (
            "1",
            "2",
            "a run on split 1 was trained on or chosen by 3 of the 3 test videos of split 2",
        ),
        ("2", "3", "2 of the 2 test videos of split 3"),
        ("2", "validation", "split 2 of moves has no validation videos"),
        ("1", "4", r"no split '4'. Splits: 1, 2, 3"),
    ],
)
def test_a_list_that_would_flatter_the_run_is_refused(own: str, asked: str, message: str) -> None:
    """Videos that the run has learnt from or was chosen by are counted and refused, validation videos among them."""
    with pytest.raises(DatasetError, match=message):
        videos_to_score(DATASET, own, asked)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (EvaluationOverrides(), "evaluation"),
        (EvaluationOverrides(split="1", clips=10, strips=3, allow_missing=True), "evaluation"),
        (EvaluationOverrides(split="2"), "evaluation-split_2"),
        (EvaluationOverrides(split="a/b", clips=4, clip_frames=16), "evaluation-split_a_b-clips_4-clip_frames_16"),
    ],
)
def test_the_folder_says_what_is_not_the_run_s_own(asked: EvaluationOverrides, expected: str) -> None:
    """Only what changes the numbers makes another folder, and a split's name can't lead out of the run."""
    config = Config(run=RunConfig(splits=("1",)), training=TrainingConfig(clips_per_video=10))
    assert asked.folder_name(config) == expected


def test_flags_say_what_was_asked() -> None:
    """The command in a report sets what this evaluation set, a 0 included, and nothing else."""
    assert flags_of(EvaluationOverrides()) == []
    asked = EvaluationOverrides(split="2", clips=4, strips=0, root=Path("a b"), allow_missing=True)
    assert flags_of(asked) == ["--split=2", "--clips=4", "--strips=0", "--root=a b", "--allow-missing"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained and evaluated run of split 1, beside a baseline that was evaluated on the same videos."""
    folder = tmp_path_factory.mktemp("trained")
    run, _ = train_one(folder, make_moves())
    baseline = Run(Path(shutil.copytree(run.folder, run.folder.parent / "baseline")))
    metrics = json.loads((baseline.evaluation / "metrics.json").read_text())
    (baseline.evaluation / "metrics.json").write_text(json.dumps(metrics | {"model": "mean", "run": "baseline"}))
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy to spoil, baseline and all."""
    shutil.copytree(trained.folder.parent, tmp_path / "runs")
    return Run(tmp_path / "runs" / trained.name)


def evaluate(
    run: Run, task: VideoTask | None = None, overrides: EvaluationOverrides | None = None, again: bool = False
) -> Evaluated:
    overrides = overrides or EvaluationOverrides()
    objective = (task or make_moves()).objective(overrides.apply(run.config()), overrides)
    return evaluate_run(run, run.config(), objective, CPU, overrides, again)


def is_finished(run: Run, dataset: VideoDataset | None = None, overrides: EvaluationOverrides | None = None) -> bool:
    task, overrides = make_moves(), overrides or EvaluationOverrides()
    objective = make_task(dataset or task.dataset, task.features).objective(overrides.apply(run.config()), overrides)
    provenance = {"format": FORMAT, "run": run_digest(run), **objective.provenance(run)}
    return finished_metrics(run.folder / objective.evaluation_name(run.config()), provenance) is not None


def test_an_evaluation_is_finished_until_something_it_depends_on_changes(run: Run) -> None:
    """Another checkpoint, test list, class, setting or baseline, or a missing file: it is repeated."""
    dataset = make_moves().dataset
    assert not is_finished(run)  # the baseline was not there yet
    assert not evaluate(run).was_finished
    assert is_finished(run) and evaluate(run).was_finished and not evaluate(run, again=True).was_finished
    split = dataset.splits["1"]
    for changed in (
        dataclasses.replace(dataset, classes=("fall", "rise")),
        dataclasses.replace(dataset, splits={"1": dataclasses.replace(split, test=split.test[1:])}),
    ):
        assert not is_finished(run, changed)
    assert not is_finished(run, overrides=EvaluationOverrides(strips=7))
    assert not is_finished(run, overrides=EvaluationOverrides(clips=3))
    checkpoint = run.checkpoints / "best.pt"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content + b"0")
    assert not is_finished(run)
    checkpoint.write_bytes(content)
    assert is_finished(run)
    (run.evaluation / "metrics.json").write_text("{")
    assert not is_finished(run)


def test_missing_videos_are_looked_for_again(run: Run) -> None:
    """An evaluation that counted missing videos as wrong is not finished: they may have features by now."""
    metrics = evaluate(run).metrics
    assert is_finished(run)
    (run.evaluation / "metrics.json").write_text(json.dumps(metrics | {"num_missing": 1}, default=str))
    assert not is_finished(run)


def baseline_of(run: Run, overrides: EvaluationOverrides | None = None) -> Path | None:
    """The baseline that an evaluation of the run is compared with."""
    overrides = overrides or EvaluationOverrides()
    return make_moves().objective(overrides.apply(run.config()), overrides).baseline(run)


def test_a_baseline_is_one_of_the_same_videos_and_clips(run: Run) -> None:
    """A frame average next to the run is compared with if it was scored in the same way, and not otherwise."""
    baseline = run.folder.parent / "baseline" / "evaluation"
    assert baseline_of(run) == baseline
    assert baseline_of(run, EvaluationOverrides(clip_frames=3)) is None
    metrics = json.loads((baseline / "metrics.json").read_text())
    (baseline / "metrics.json").write_text(json.dumps(metrics | {"model": "np_rnn"}))
    assert baseline_of(run) is None


def test_of_several_baselines_the_one_with_the_same_seed_is_chosen(run: Run) -> None:
    """Seeds are paired where possible."""
    first = run.folder.parent / "baseline"
    metrics = json.loads((first / "evaluation" / "metrics.json").read_text())
    other = Path(shutil.copytree(first, run.folder.parent / "another"))
    (other / "evaluation" / "metrics.json").write_text(json.dumps(metrics | {"seed": 5}))
    assert baseline_of(run) == first / "evaluation"


def test_mistakes_come_before_right_answers_and_the_surest_first() -> None:
    """Where not every video gets a strip of frames, the sure mistakes do; a missing one has nothing to show."""
    confidences = [(0, 0.9), (1, 0.6), (0, 0.7), (1, 0.8)]  # class taken for, how sure; all are of class 0
    probabilities = np.array([[p, 1 - p] if taken == 0 else [1 - p, p] for taken, p in confidences])
    predictions = Predictions(
        ("a", "b"), tuple("vwxyz"), np.zeros(5, dtype=np.int64), probabilities, np.array([0, 1, 3, 4])
    )
    assert list(most_telling_first(predictions)) == [4, 1, 0, 3, 2]


@pytest.mark.parametrize("name", ["np_rnn", "rnn_tanh"])
def test_the_spectrum_before_is_that_of_the_untrained_network(name: str) -> None:
    """Made anew from the seed, whatever PyTorch's generator has done since, and without touching it."""
    config = ModelConfig(model=name, hidden_size=6)  # type: ignore[arg-type]
    trained = new_classifier(config, 3, 4, 2)
    expected = np.linalg.eigvals(trained.layers[0].weight_hh_l0.detach().double().numpy())
    with torch.no_grad():
        trained.layers[0].weight_hh_l0.mul_(2)
    state = torch.random.get_rng_state()
    found = spectra(config, 3, trained)
    assert found is not None
    np.testing.assert_allclose(np.sort_complex(found["before"]), np.sort_complex(expected), atol=1e-6)
    np.testing.assert_allclose(np.sort_complex(found["after"]), np.sort_complex(2 * expected), atol=1e-6)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["mean", "lstm", "gru"])
def test_a_network_without_one_recurrent_matrix_has_no_spectrum(name: str) -> None:
    """Gated layers have several and the frame average none: no picture of something else is shown."""
    config = ModelConfig(model=name, hidden_size=6)  # type: ignore[arg-type]
    assert spectra(config, 0, SequenceClassifier(config, 4, 2)) is None


def test_versions_name_what_the_backbone_is_from() -> None:
    """A report says with which library its network was built, and none where another tool made the features."""
    assert f"torch {torch.__version__.partition('+')[0]}" in versions(None)
    assert "torchvision" in versions("resnet18")
    assert "timm" in versions("timm:vit_tiny") and "timm" in versions("efficientnet_lite0")
    assert "timm" not in versions("imported:mine") and "torchvision" not in versions("imported:mine")


def test_settings_that_are_no_settings_are_refused() -> None:
    """A negative number of strips is an error, not all but the last."""
    with pytest.raises(ConfigError, match="strips must be at least 0, not -1"):
        EvaluationOverrides(strips=-1).apply(Config())
