"""Recording while a page plays: the recorder's files on a thread, what became of them told to the page."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from data_pipeline.controls import Controls
from tools.messages import error_text, to_text
from tools.outbox import Outbox
from tools.recorder import Recording

T = TypeVar("T")
log = logging.getLogger(__name__)


async def on(thread: ThreadPoolExecutor, work: Callable[..., T], *given: object) -> T:
    """What `work` gives back, done on `thread`."""
    return await asyncio.get_running_loop().run_in_executor(thread, work, *given)


class Camera:
    """Nothing here stops the play: where a file cannot be written the page is told, and the world goes on."""

    def __init__(self, recorder: Recording, outbox: Outbox, thread: ThreadPoolExecutor) -> None:
        self.recorder, self._outbox, self._thread = recorder, outbox, thread

    async def start(self) -> None:
        """Film from the next frame on."""
        try:
            await on(self._thread, self.recorder.start)
        except (OSError, ValueError) as error:
            await self._complain(f"cannot record: {error}")
        await self._outbox.tell(to_text({"kind": "recording", "on": self.recorder.on}))

    async def stop(self) -> None:
        """Save the film that runs, if one does, and tell where."""
        if not self.recorder.on:
            return
        saved = None
        try:
            saved = await on(self._thread, self.recorder.stop)
        except (OSError, ValueError) as error:
            await self._complain(f"the recording was lost: {error}")
        await self._outbox.tell(to_text({"kind": "recording", "on": False}))
        if saved is not None:
            actions, video = saved
            await self._outbox.tell(to_text({"kind": "saved", "actions": str(actions), "video": str(video)}))

    async def keep(self, controls: Controls, frame: np.ndarray, info: dict[str, Any]) -> None:
        """One frame (H, W, 3) uint8, what led to it, and what the world says of it."""
        try:
            await on(self._thread, self.recorder.add, controls, frame, info)
        except OSError as error:
            await self._complain(f"recording stops: {error}")
            await self.stop()
        if self.recorder.on and self.recorder.full:
            await self._complain("the recording is as long as it can be, and is saved now")
            await self.stop()

    def stop_unheard(self) -> None:
        """Save the film of a page that has left; called on the thread."""
        try:
            self.recorder.stop()
        except (OSError, ValueError) as error:
            log.warning("a recording was lost: %s", error)

    async def _complain(self, message: str) -> None:
        await self._outbox.tell(error_text(message, "recording"))
