"""What the applications share that show a file: its name, whether it was changed, saving, and the question before closing."""

import abc
from typing import ClassVar

from data_pipeline.environments.full_desktop.app import App, Dialog, Host, Item
from data_pipeline.environments.full_desktop.disk import File, name_of

_LONGEST_NAME = 14


class Document(App):
    folder: ClassVar[str]  # where new files go
    ending: ClassVar[str]

    def __init__(self, host: Host, document: str = "") -> None:
        super().__init__(host, document)
        self.modified = False

    @abc.abstractmethod
    def stored(self) -> File:
        """What saving writes."""

    @property
    def title(self) -> str:
        name = name_of(self.document) if self.document else "Untitled"
        return f"{'*' if self.modified else ''}{name} - {self.label}"

    def file_menu(self) -> tuple[Item, ...]:
        return (
            Item("New", bool(self.host.launching(self.name))),
            Item("Open...", bool(self.host.launching("files", self.folder))),
            Item("Save", self.modified and self._can_store()),
            Item("Save as...", self.host.disk.has_room(self.folder)),
            Item("Close"),
        )

    def choose(self, menu: str, item: str) -> list[str]:
        match item:
            case "New":
                return self.host.launch(self.name)
            case "Open...":
                return self.host.launch("files", self.folder)
            case "Save":
                return self._save(self.document or self._free("Untitled"))
            case "Save as...":
                field = name_of(self._free("Untitled")).removesuffix(self.ending)
                return self.host.ask(self, Dialog("save as", ("Name of the file:",), ("Save", "Cancel"), field))
        return super().choose(menu, item)

    def closing(self) -> Dialog | None:
        if not self.modified:
            return None
        name = name_of(self.document) if self.document else "Untitled"
        buttons = ("Save", "Discard", "Cancel") if self._can_store() else ("Discard", "Cancel")
        return Dialog("close", ("Save the changes to", f"{name}?"), buttons)

    def answer(self, question: str, button: str, text: str) -> list[str]:
        if question == "save as" and button == "Save":
            stem = text.replace("/", "").strip()[:_LONGEST_NAME]
            return self._save(self._free(stem or "Untitled"))
        if question == "close" and button != "Cancel":
            saved = self._save(self.document or self._free("Untitled")) if button == "Save" else []
            self.modified = False
            return saved + self.host.close(self)
        return []

    def _can_store(self) -> bool:
        return self.document in self.host.disk.files or self.host.disk.has_room(self.folder)

    def _free(self, stem: str) -> str:
        return self.host.disk.free_name(self.folder, stem, self.ending)

    def _save(self, path: str) -> list[str]:
        self.host.disk.files[path] = self.stored()
        self.document, self.modified = path, False
        return ["save"]
