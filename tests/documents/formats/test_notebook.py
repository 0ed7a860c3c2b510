import json
from pathlib import Path
from typing import Any

import pytest

from documents.document import Document, UnreadableFileError
from documents.formats import notebook
from tests.documents.formats.reading import ignore_progress, outline, written


def read(tmp_path: Path, content: Any) -> Document:
    return notebook.read(written(tmp_path, "a.ipynb", json.dumps(content)), ignore_progress)


def test_cells_of_version_4(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "raw", "source": "---\ntitle: Boards\nlang: en\n---\n"},
        {
            "cell_type": "markdown",
            "source": ["# Traces\n", "\n", "Some *text*.\n", "![plot](data:image/png;base64,AAAA)"],
        },
        {
            "cell_type": "code",
            "source": "def f():\n    return 1\nf()",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["\u001b[31mred\u001b[0m\n", "two\n"]},
                {"output_type": "stream", "name": "stderr", "text": "warning"},
                {"output_type": "execute_result", "data": {"text/plain": "1", "image/png": "iVBORw0KGgo="}},
                {"output_type": "display_data", "data": {"text/plain": "<Figure size 640x480 with 1 Axes>"}},
                {"output_type": "stream", "name": "stdout", "text": "x" * (notebook.LONGEST_OUTPUT + 1)},
                {"output_type": "error", "traceback": ["boom"]},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
        {"cell_type": "code", "source": "setup()", "metadata": {"tags": ["remove-cell"]}},
    ]
    document = read(tmp_path, {"nbformat": 4, "metadata": {}, "cells": cells})
    assert outline(document) == [
        "# Traces",
        "Some text. plot",
        "code: def f():\n    return 1\nf()",
        "code: red\ntwo",
        "code: 1",
    ]
    assert (document.source_type, document.title, document.language) == ("notebook", "Boards", "en")


def test_cells_of_version_3(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Vias"},
        {"cell_type": "code", "input": ["1 + 1"], "outputs": [{"output_type": "pyout", "text": ["2"]}]},
    ]
    assert outline(read(tmp_path, {"nbformat": 3, "worksheets": [{"cells": cells}]})) == [
        "## Vias",
        "code: 1 + 1",
        "code: 2",
    ]


@pytest.mark.parametrize(
    "content",
    [
        {"nbformat": 4, "cells": []},
        {"nbformat": 4, "cells": None},
        {"nbformat": 4, "cells": [1, {"cell_type": "markdown", "source": 5, "metadata": 3}, {"cell_type": "code"}]},
        {"nbformat": 3, "worksheets": [None, {"cells": {}}]},
        {"cells": [{"cell_type": "code", "source": "x"}]},
        [],
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UnreadableFileError):
        read(tmp_path, content)
