import pytest

from infra.config import override_config
from infra.errors import ConfigError
from pipeline.mixture import DatasetConfig


def test_dataset_config_takes_everything_as_it_is_by_default():
    config = DatasetConfig()
    assert (config.dedup, config.split.val, config.split.test) == ("auto", 0.0, 0.0)
    assert (config.weights, config.max_clips, config.stratify.column) == ({}, None, "")
    assert DatasetConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["split.val=1"], "split.val"),
        (["split.test=-0.1"], "split.test"),
        (["split.val=0.5", "split.test=0.5"], r"split.val \+ split.test must be below 1"),
        (["weights.web=-1"], "weights.web"),
        (["weights.web=0"], "give one kind more than 0"),
        (["max_clips=0"], "max_clips"),
        (["max_clips_per_channel=0"], "max_clips_per_channel"),
        (["max_hours_per_channel=0"], "max_hours_per_channel"),
        (["stratify.column=motion_score"], "needs max_clips"),
        (["stratify.column=motion_score", "max_clips=5", "stratify.bins=1"], "stratify.bins"),
        (["splits.val=0.1"], "unknown setting splits; did you mean split"),
        (["split.valid=0.1"], "unknown setting split.valid"),
    ],
)
def test_dataset_config_that_cannot_be_raises_config_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        override_config(DatasetConfig(), settings)
