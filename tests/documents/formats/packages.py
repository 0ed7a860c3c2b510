"""Changes Office files as no Office program writes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile


def rewritten(
    path: Path, changes: Mapping[str, Callable[[bytes], bytes]], added: Mapping[str, bytes] | None = None
) -> Path:
    """A copy of the file, with some parts changed and others added."""
    copy = path.with_stem(f"{path.stem}-changed")
    with ZipFile(path) as source, ZipFile(copy, "w", ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, changes[name](content) if name in changes else content)
        for name, content in (added or {}).items():
            target.writestr(name, content)
    return copy
