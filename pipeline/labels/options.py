"""The options of the command."""

from dataclasses import dataclass, field
from pathlib import Path

from data.catalog import DataConfig
from pipeline.settings.config import ConfigError, FeatureConfig

LARGEST_NUMBER_OF_FOLDS = 10


@dataclass(frozen=True)
class LabelsConfig:
    """How videos are judged, and where the result goes."""

    folds: int = LARGEST_NUMBER_OF_FOLDS
    """parts that the groups are dealt into; each is judged by a model of the others. Fewer where there are too few
    groups"""
    strips: int = 200
    """number of suspects whose frames the page shows, the worst first; 0 for none"""
    output: Path | None = None
    """folder for the result (default: runs/<dataset>/labels)"""
    overwrite: bool = False
    """replace an existing labels.csv, which may contain corrections"""
    allow_missing: bool = False
    """continue if videos have no features: they are listed, but not judged"""

    def __post_init__(self) -> None:
        for name, smallest in (("folds", 2), ("strips", 0)):
            if getattr(self, name) < smallest:
                raise ConfigError(f"{name} must be at least {smallest}, not {getattr(self, name)}")


@dataclass(frozen=True)
class LabelsSettings:
    """Find videos whose label is probably wrong.

    Every video is judged by a model that saw no video of its group. Reads cached features, and caches what is missing.
    Writes labels.csv (all videos, suspects first: correct its column label, and read it with --dataset folder --root
    labels.csv) and labels.html, which shows the suspects.
    """

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
