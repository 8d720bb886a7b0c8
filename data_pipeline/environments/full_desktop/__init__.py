"""The full profile of the simulated desktop: real-looking applications, menus, dialogs, a disk; all of it exactly known."""
