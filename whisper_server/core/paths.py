"""Messages for clients: what a library says about a file, without where it lies; pure."""

from __future__ import annotations

import re
from pathlib import Path

# From a slash or a drive on, up to white space or a quote: no path has to exist. An address of the web, where
# the slashes follow a colon, stays.
_ABSOLUTE = re.compile(
    r"""(?<![\w.:/\\-])(?:[A-Za-z]:)?[/\\](?:[^\s'"<>|:;,]*[/\\])*(?P<name>[^\s'"<>|:;,/\\]*)"""
)


def without_paths(text: str, *folders: Path) -> str:
    """Return a text with the last name of a path in place of the path.

    `folders` may be in it with names that end at no white space; other paths are known by their looks.
    """
    known = {str(path) for folder in folders for path in (folder, folder.absolute(), folder.resolve())}
    for path in sorted(known, key=len, reverse=True):
        if Path(path).name:  # neither a root nor the folder that is worked in
            text = text.replace(path, Path(path).name)
    return _ABSOLUTE.sub(lambda found: found["name"] or "...", text)
