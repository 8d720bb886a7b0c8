"""Record what a person does: an environment in the browser, and a dataset of it that can be trained on.

python -m tools.record desktop_sim --out recordings/ann --by "Ann Lee" --licence CC-BY-4.0
python -m tools.record configs/x11_applications/record.yaml stage.environment.fps=10 --out ... --by ... --licence ...
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.environments.environment import Environment
from data_pipeline.record import cursor_images
from launch.entry import OK, guarded, spoken
from launch.recordings import RecordConfig
from launch.run_config import load_run
from tools import hosting
from tools.dataset_recorder import DatasetRecorder, Origin, fits
from tools.worlds import environment_alone, opener
from wm.config import to_dict


def main(argv: Sequence[str] | None = None) -> int:
    """0 ended by an interrupt, 1 failed, 2 wrong input."""
    options = _parser().parse_args(argv)
    return guarded(lambda: _serve(options), spoken("tools.record", argv), options.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.record", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environment", help="a kind such as desktop_sim, or the file of a record stage that has one")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="other values for that file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DATASET", help="folder of the dataset; one that is there grows"
    )
    parser.add_argument(
        "--by", required=True, metavar="NAME", help="who records, kept in dataset.json and with each clip"
    )
    parser.add_argument(
        "--licence", required=True, metavar="SPDX", help="what others may do with it, such as CC-BY-4.0"
    )
    hosting.add_options(parser.add_argument_group("in a browser"), with_recordings=False)
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def _serve(options: argparse.Namespace) -> int:
    hosting.check(options)
    tree = environment_tree(options.environment, options.overrides)
    environment = opener(tree)()
    try:
        origin = origin_of(environment, tree, options.by, options.licence)
        game = environment_alone(environment, opener(tree))
    finally:
        environment.close()
    fits(options.out, game)
    options.recordings = options.out
    hosting.host(options, lambda: game, True, lambda game, folder: DatasetRecorder(game, folder, origin))
    return OK


def environment_tree(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of an environment: its kind alone, or those of the record stage in the file `name`."""
    if Path(name).suffix not in (".yaml", ".yml"):
        if overrides:
            raise ValueError(f"{overrides[0]!r}: settings can be changed where a file gives them, not for a kind")
        return {"kind": name}
    stage = load_run(Path(name), overrides).stage
    if not isinstance(stage, RecordConfig):
        raise ValueError(f"{name} is no record stage: give configs/<world>/record.yaml")
    return to_dict(stage.environment)


def origin_of(environment: Environment, tree: dict[str, Any], by: str, licence: str) -> Origin:
    """What the dataset says of where its recordings come from."""
    return Origin(by, licence, tree, environment.name, environment.version, cursor_images(environment))


if __name__ == "__main__":
    sys.exit(main())
