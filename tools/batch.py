"""Replay of an action file into a clip: no screen, no server, the frames that the same input gives in the browser."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.controls import Controls
from tools.actions import Beginning, read
from tools.film import Film
from tools.session import Game, Player

OnFrame = Callable[[int, int], None]  # frames done, frames in all


def frames(game: Game, begin: Beginning, controls: Sequence[Controls]) -> Iterator[np.ndarray]:
    """The frame of the beginning, then one (H, W, 3) uint8 for each of `controls`. ValueError names the frame."""
    player = Player(game)
    try:
        yield player.dream_from(begin, player.prepare(begin))
        player.close_real()  # only its past was needed
        for number, one in enumerate(controls, 1):
            try:
                row = player.fold(one)
            except ValueError as error:
                raise ValueError(f"frame {number}: {error}") from None
            yield player.dream(one, row)
    finally:
        player.close_dream()
        player.close_real()


def replay(game: Game, actions: Path, out: Path, on_frame: OnFrame = lambda done, total: None) -> int:
    """Write the clip of the action file `actions` to `out`, one frame for each of its rows but those it skips.

    The number of frames of the clip comes back. `out` is whole or absent. ValueError for a file that cannot be played.
    """
    header, controls = read(actions)
    if header.skip >= len(controls):
        raise ValueError(f"{actions} has {len(controls)} frames and skips {header.skip}: there is nothing to write")
    film = Film(out.absolute().parent, game.height, game.width)
    try:
        for number, frame in enumerate(frames(game, header.begin, controls)):
            if number > header.skip:
                film.append(frame)
            on_frame(number, len(controls))
        film.save(out, game.space.fps)
        return film.num_frames
    except ValueError as error:
        raise ValueError(f"{actions}: {error}") from None
    finally:
        film.close()
