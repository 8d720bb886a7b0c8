"""Before a training begins: whether the captions on disk are those of the text encoder that its config names."""

import json
from pathlib import Path

from data_pipeline.schema import TextFacts
from launch.run_config import RunConfig
from launch.stage_state import DATASET
from wm.conditioning.caption import TextConditionerConfig
from wm.conditioning.text import PretrainedTextConfig
from wm.conditioning.text_cache import StaleTextError, refuse_stale
from wm.config import ConfigError, from_dict
from wm.stages.train_dit import TrainDiTConfig


def refuse_stale_captions(run: RunConfig, root: Path, configs: Path) -> None:
    """ConfigError with the command that encodes them again, where another encoder left the captions of `run`."""
    encoder, facts = _encoder(run), None
    if encoder is not None:
        facts = json.loads((root / run.source / DATASET).read_text()).get("text")
    if encoder is None or facts is None:
        return
    told = from_dict(TextFacts, facts)
    remedy = (
        f"run `python -m launch.run {configs / 'encode.yaml'} --root {root} --again`, with the same encoder as its text"
    )
    try:
        refuse_stale(encoder, told.encoder, told.width, told.precision, remedy)
    except StaleTextError as error:
        raise ConfigError(f"{run.source}: {error}") from None


def _encoder(run: RunConfig) -> PretrainedTextConfig | None:
    if not isinstance(run.stage, TrainDiTConfig):
        return None
    conditioner = run.stage.denoiser.conditioner
    if not isinstance(conditioner, TextConditionerConfig) or not isinstance(conditioner.encoder, PretrainedTextConfig):
        return None
    return conditioner.encoder
