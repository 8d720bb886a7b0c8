"""What other tools call keys, as the physical key codes that browsers use and our action spaces name."""

import string

_LETTERS = {letter: f"Key{letter.upper()}" for letter in string.ascii_lowercase}
_DIGITS = {digit: f"Digit{digit}" for digit in string.digits}
_SIGNS = {
    "`": "Backquote", "-": "Minus", "=": "Equal", "[": "BracketLeft", "]": "BracketRight", "\\": "Backslash",
    ";": "Semicolon", "'": "Quote", ",": "Comma", ".": "Period", "/": "Slash",
    " ": "Space", "\t": "Tab", "\n": "Enter", "\r": "Enter",
}  # fmt: skip
# What a US keyboard writes with shift held, and the key without it.
SHIFTED = dict(zip('~_+{}|:"<>?)!@#$%^&*(', "`-=[]\\;',./0123456789", strict=True)) | {
    letter.upper(): letter for letter in string.ascii_lowercase
}
_NAMED = {
    "add": "NumpadAdd", "alt": "AltLeft", "altleft": "AltLeft", "altright": "AltRight", "apps": "ContextMenu",
    "backspace": "Backspace", "browserback": "BrowserBack", "browserfavorites": "BrowserFavorites",
    "browserforward": "BrowserForward", "browserhome": "BrowserHome", "browserrefresh": "BrowserRefresh",
    "browsersearch": "BrowserSearch", "browserstop": "BrowserStop", "capslock": "CapsLock", "clear": "NumpadClear",
    "command": "MetaLeft", "convert": "Convert", "ctrl": "ControlLeft", "ctrlleft": "ControlLeft",
    "ctrlright": "ControlRight", "decimal": "NumpadDecimal", "del": "Delete", "delete": "Delete",
    "divide": "NumpadDivide", "down": "ArrowDown", "end": "End", "enter": "Enter", "esc": "Escape", "escape": "Escape",
    "fn": "Fn", "hanguel": "Lang1", "hangul": "Lang1", "hanja": "Lang2", "help": "Help", "home": "Home",
    "insert": "Insert", "kana": "KanaMode", "kanji": "Lang2", "launchapp1": "LaunchApp1", "launchapp2": "LaunchApp2",
    "launchmail": "LaunchMail", "launchmediaselect": "MediaSelect", "left": "ArrowLeft", "multiply": "NumpadMultiply",
    "nexttrack": "MediaTrackNext", "nonconvert": "NonConvert", "numlock": "NumLock", "option": "AltLeft",
    "optionleft": "AltLeft", "optionright": "AltRight", "pagedown": "PageDown", "pageup": "PageUp", "pause": "Pause",
    "pgdn": "PageDown", "pgup": "PageUp", "playpause": "MediaPlayPause", "prevtrack": "MediaTrackPrevious",
    "print": "PrintScreen", "printscreen": "PrintScreen", "prntscrn": "PrintScreen", "prtsc": "PrintScreen",
    "prtscr": "PrintScreen", "return": "Enter", "right": "ArrowRight", "scrolllock": "ScrollLock",
    "separator": "NumpadComma", "shift": "ShiftLeft", "shiftleft": "ShiftLeft", "shiftright": "ShiftRight",
    "sleep": "Sleep", "space": "Space", "stop": "MediaStop", "subtract": "NumpadSubtract", "tab": "Tab",
    "up": "ArrowUp", "volumedown": "AudioVolumeDown", "volumemute": "AudioVolumeMute", "volumeup": "AudioVolumeUp",
    "win": "MetaLeft", "winleft": "MetaLeft", "winright": "MetaRight", "yen": "IntlYen",
    **{f"num{digit}": f"Numpad{digit}" for digit in range(10)},
    **{f"f{number}": f"F{number}" for number in range(1, 25)},
}  # fmt: skip

# pyautogui's name of a key -> its code. A sign that takes shift is the key that it is on.
PYAUTOGUI = {
    **_LETTERS, **_DIGITS, **_SIGNS, **_NAMED,
    **{sign: (_LETTERS | _DIGITS | _SIGNS)[plain] for sign, plain in SHIFTED.items()},
}  # fmt: skip
# Names that pyautogui has and that no keyboard under X sends anything for.
PYAUTOGUI_SILENT = frozenset({"accept", "execute", "final", "junja", "modechange", "select"})
CODES = tuple(sorted(set(PYAUTOGUI.values())))
