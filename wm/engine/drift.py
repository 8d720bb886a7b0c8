"""Whether a run may go on from a checkpoint that was made under another config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wm.config import ConfigError, difference

# What may differ between a checkpoint and the run that goes on from it: none of these changes what is computed. A
# name is a field anywhere in the config; a dotted path is that field or everything below it.
ALWAYS_ALLOWED = (
    "zero_stage",
    "offload",
    "offload_folder",
    "num_workers",
    "worker_kind",
    "log_every",
    "save_every",
    "sample_every",
    "keep_last",
    "keep_every",
    "async_save",
    "resources",
    "shard_cache",
)


def refuse_drift(old: Mapping[str, Any], new: Mapping[str, Any], path: Path, allow_changes: Sequence[str]) -> None:
    """ConfigError with a line for every field that differs and is not allowed to."""
    lines = [
        line for line in difference(old, new) if not _allowed(line.split(":", 1)[0], (*ALWAYS_ALLOWED, *allow_changes))
    ]
    if lines:
        raise ConfigError(
            f"{path} was made under another config: {'; '.join(lines)}. "
            "Undo that, allow it by name, or choose another folder"
        )


def _allowed(field: str, allowed: Sequence[str]) -> bool:
    last = field.rsplit(".", 1)[-1]
    return any(field == name or field.startswith(f"{name}.") or last == name for name in allowed)
