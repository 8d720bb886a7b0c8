"""The kinds of transitions of the full desktop: what a step's `info["events"]` and the kinds of targets are words of.

Evaluation judges each kind apart, so a kind is one thing to be learnt: something that looks alike and is caused alike.
"""

TRANSITIONS: dict[str, str] = {
    "hover": "what is under the pointer lights up, or the cursor takes another shape",
    "open": "a window opens",
    "close": "a window closes",
    "minimise": "a window goes down to the panel",
    "restore": "a window comes back from the panel",
    "maximise": "a window fills the screen, or takes its former size again",
    "raise": "a window comes to the front",
    "drag": "a window moves with the pointer",
    "resize": "a window changes its size with the pointer",
    "menu": "a menu drops down",
    "dismiss": "a menu goes away without a choice",
    "choose": "a line of a menu is chosen, and the menu goes away",
    "dialog": "a question opens over a window",
    "answer": "a question is answered and goes away",
    "type": "letters or digits are typed or deleted",
    "caret": "the caret goes somewhere else",
    "scroll": "what a window shows moves up or down in it",
    "click": "a button, tool or colour is pressed",
    "draw": "paint goes onto a picture",
    "undo": "what was done last is taken back",
    "save": "a file is written",
    "select": "an icon is selected, or none any more",
    "browse": "a folder's contents take the place of another's",
    "create": "a folder is made",
    "delete": "a file or folder goes away",
    "view": "the same files are shown as icons or as a list",
}

# Kinds of targets that are no transitions of their own: how else than by a press a place is used.
GESTURES: dict[str, str] = {"wheel": "scroll"}  # gesture: the transition that it causes
