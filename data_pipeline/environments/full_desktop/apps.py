"""Every application of the full desktop, in the order of its menu. A new one is a class in its own file and a name here."""

from data_pipeline.environments.full_desktop.app import App
from data_pipeline.environments.full_desktop.calculator import Calculator
from data_pipeline.environments.full_desktop.editor import Editor
from data_pipeline.environments.full_desktop.files import Files
from data_pipeline.environments.full_desktop.paint import Paint

APPS: dict[str, type[App]] = {app.name: app for app in (Files, Editor, Paint, Calculator)}
