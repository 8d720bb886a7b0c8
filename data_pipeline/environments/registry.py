"""Every environment there is, as the union that configs choose from. A new one is its file and a line here."""

from typing import Annotated

from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.environments.gymnasium_world import GymnasiumConfig
from data_pipeline.environments.shapes import ShapesConfig
from data_pipeline.environments.x11_desktop import X11DesktopConfig
from wm.config import Kind

EnvironmentConfig = Annotated[DesktopSimConfig | ShapesConfig | X11DesktopConfig | GymnasiumConfig, Kind]
