from pathlib import Path

import pytest

from infra.errors import ConfigError
from train.config import TrainConfig, check_dataset_fits, load_train_config


def test_load_train_config_tiny_is_valid():
    config = load_train_config("tiny", overrides=())
    assert (config.data.num_frames, config.data.num_samples) == (16, 32_000)
    assert config.data.num_mel_frames(config.model.mel_patch_frames) == 126


def test_load_train_config_override_replaces_one_setting():
    config = load_train_config("tiny", overrides=("optimiser.learning_rate=0.5", "model.depth=1"))
    assert (config.optimiser.learning_rate, config.model.depth) == (0.5, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learning_rat=1", "unknown setting optimiser.learning_rat; did you mean learning_rate"),
        ("model.dept=1", "model.dept"),
        ("num_steps=0", "num_steps: Input should be greater than or equal to 1"),
        ("data.frame_px=60", "data.frame_px: Input should be a multiple of 8"),
        ("data.frame_px=72", "must give latents that divide into model tubelets"),
        ("model.num_heads=3", "model.width must be a multiple of model.num_heads"),
    ],
)
def test_load_train_config_bad_setting_raises_config_error_in_one_line(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_train_config("tiny", overrides=(override,))
    assert "\n" not in str(caught.value)


def test_load_train_config_unknown_recipe_names_the_known():
    with pytest.raises(ConfigError, match="one of tiny"):
        load_train_config("huge", overrides=())


def test_train_config_every_setting_has_a_docstring():
    def undocumented(model: type, prefix: str) -> list[str]:
        return [f"{prefix}{name}" for name, field in model.model_fields.items() if not field.description]

    parts = [TrainConfig] + [
        field.annotation
        for field in TrainConfig.model_fields.values()
        if hasattr(field.annotation, "model_fields")
    ]
    assert [name for part in parts for name in undocumented(part, f"{part.__name__}.")] == []


def test_check_dataset_fits_fewer_samples_than_a_batch_raises_config_error():
    config = load_train_config("tiny", overrides=())
    check_dataset_fits(config, dataset_dir=Path("d"), num_samples=4, num_ranks=2)
    with pytest.raises(ConfigError, match="4 samples for 2 ranks of 2, got 3"):
        check_dataset_fits(config, dataset_dir=Path("d"), num_samples=3, num_ranks=2)
