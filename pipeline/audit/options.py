"""The options of the command."""

from dataclasses import dataclass, field
from pathlib import Path

from data.catalog import DataConfig
from pipeline.settings.config import ConfigError, FeatureConfig


@dataclass(frozen=True)
class AuditConfig:
    """What is compared, and where the result goes."""

    split: str | None = None
    """split whose training, validation and test videos are told apart; the first if unset"""
    strips: int = 100
    """number of pairs whose frames the page shows, the worst first; 0 for none"""
    output: Path | None = None
    """folder for the result (default: runs/<dataset>/audit-split_<split>)"""
    allow_missing: bool = False
    """continue if videos have no features: they are not compared"""

    def __post_init__(self) -> None:
        if self.strips < 0:
            raise ConfigError(f"strips must be at least 0, not {self.strips}")


@dataclass(frozen=True)
class AuditSettings:
    """Find copies among the videos of a dataset, above all across training and test videos.

    Reads cached features, and caches what is missing. Writes audit.html, audit.csv, groups.csv and exclude.txt, which
    train.py --exclude reads. The exit code is 1 if there are copies across the parts of the split, else 0.
    """

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
