"""How the pictures of the gallery look: readable on a light page and on a dark one."""

from __future__ import annotations

from typing import Any

INK = "#7b7f86"
"""For lines and text: about as far from white as from the dark page. The ground is left out."""
NAMES = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
    "legend.labelcolor", "legend.edgecolor",
)  # fmt: skip


def reset(gallery_conf: dict[str, Any], example: str) -> None:
    """Before each example: after sphinx-gallery has set Matplotlib back to what it is by default."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(dict.fromkeys(NAMES, INK))
    plt.rcParams.update(
        {"figure.facecolor": "none", "axes.facecolor": "none", "legend.facecolor": "none"}
    )
