"""Pages of the notebooks: their texts and cells as Markdown."""

from __future__ import annotations

import json
from pathlib import Path


def pages(folder: Path) -> dict[str, str]:
    """Place on the site -> Markdown, for every notebook of the folder."""
    return {f"notebooks/{path.stem}.md": page(path) for path in sorted(folder.glob("*.ipynb"))}


def page(path: Path) -> str:
    """One notebook; its file is linked in front."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [
        source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for cell in cells
        if (source := "".join(cell["source"]).strip())
    ]
    title, _, rest = texts[0].partition("\n")
    download = f"[The notebook]({path.name}), which `make docs` runs."
    return "\n\n".join([title, download, rest.strip(), *texts[1:]]) + "\n"
