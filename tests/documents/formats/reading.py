"""What the tests of readers share."""

from pathlib import Path

from documents.document import Block, Document, Kind


def ignore_progress(share: float) -> None:
    assert 0.0 <= share <= 1.0


def outline(document: Document) -> list[str]:
    """A line per block: `# Title` for a heading, `table: …`, `code: …`, or the text."""
    return [_line(block) for block in document.blocks]


def _line(block: Block) -> str:
    match block.kind:
        case Kind.HEADING:
            return f"{'#' * block.level} {block.text}"
        case Kind.TEXT:
            return block.text
    return f"{block.kind}: {block.text}"


def written(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
