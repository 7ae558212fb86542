"""Which run settings are refused, and what evaluation overrides become: settings, a folder and flags."""

from pathlib import Path

import pytest

from data.catalog import DataConfig
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides, RunConfig, TrainingConfig
from pipeline.settings.parsing import flags_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (0, 1, 0)}, r"seeds .*different.*\(0, 1, 0\)"),
        ({"splits": ("1", "1")}, "splits .*different"),
        ({"seeds": ()}, "seeds .*one or more"),
        ({"seeds": (-1,)}, "seeds .*at least 0"),
        ({"name": "../b"}, "name .*folder name"),
        ({"name": ""}, "name .*folder name"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite"),
    ],
)
def test_runs_that_would_collide_or_escape_are_refused(options: dict[str, object], message: str) -> None:
    """Two runs in one folder, no run at all, and a name that leads to another folder are errors before any work."""
    with pytest.raises(ConfigError, match=message):
        RunConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dataset", "length", "growth", "message"),
    [
        ("addition", 50, ((20, 60), (1, 1)), "ends with 60, and length is 50"),
        ("addition", 60, ((20, 60), (1,)), "2 numbers and grow_epochs 1"),
        ("addition", 60, ((60, 20, 60), (1, 1, 1)), "each longer"),
        ("addition", 60, ((1, 60), (1, 1)), "at least 2"),
        ("addition", 60, ((20, 60), (0, 1)), "at least 1"),
        ("pixel_mnist", 100, ((20, 100), (1, 1)), "pixel_mnist has no use"),
    ],
)
def test_growth_that_makes_no_sense_is_refused(
    dataset: str, length: int, growth: tuple[tuple[int, ...], tuple[int, ...]], message: str
) -> None:
    """Stages end at the length that is tested, each has its epochs, and only sequences without fixed length grow."""
    with pytest.raises(ConfigError, match=message):
        lengths, epochs = growth
        Config(
            data=DataConfig(dataset, length=length), training=TrainingConfig(grow_length=lengths, grow_epochs=epochs)
        )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (EvaluationOverrides(), "evaluation"),
        (EvaluationOverrides(split="1", clips=10, strips=3, allow_missing=True), "evaluation"),
        (EvaluationOverrides(split="2"), "evaluation-split_2"),
        (EvaluationOverrides(split="a/b", clips=4, clip_frames=16), "evaluation-split_a_b-clips_4-clip_frames_16"),
    ],
)
def test_an_evaluation_folder_is_named_by_what_differs(overrides: EvaluationOverrides, expected: str) -> None:
    """Only overrides that change the metrics change the folder, and a split's name can't lead out of the run."""
    config = Config(run=RunConfig(splits=("1",)), training=TrainingConfig(clips_per_video=10))
    assert overrides.folder_name(config) == expected


def test_flags_reproduce_the_overrides() -> None:
    """The command in a report sets what this evaluation set, including a 0, and nothing else."""
    assert flags_of(EvaluationOverrides()) == []
    overrides = EvaluationOverrides(split="2", clips=4, strips=0, root=Path("a b"), allow_missing=True)
    assert flags_of(overrides) == ["--split=2", "--clips=4", "--strips=0", "--root=a b", "--allow-missing"]


def test_overrides_are_checked_like_settings() -> None:
    """A negative number of strips is an error, and does not select all but the last."""
    with pytest.raises(ConfigError, match="strips .*at least 0.*-1"):
        EvaluationOverrides(strips=-1).apply(Config())
