"""The style of all figures."""

from __future__ import annotations

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from ..clock import counts_as
from ..records import FAINT, INK, PALETTE, PAPER

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


def use_style() -> None:
    """Use the project's style for all figures of this process; in a notebook, as SVG."""
    mpl.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.prop_cycle": cycler(color=PALETTE, linestyle=LINES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",  # or it could be the label of the axis above
            "figure.constrained_layout.h_pad": 0.08,
            "figure.constrained_layout.use": True,
            "figure.figsize": (6, 3),
            "font.size": 11,
            "grid.color": FAINT,
            "image.cmap": "gray_r",
            "image.interpolation": "none",
            "legend.frameon": False,
            "svg.hashsalt": "vae_lab",  # the same figure has the same bytes in every run
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
        drawn = get_ipython().display_formatter.formatters["image/svg+xml"]
        drawn.for_type(Figure, counts_as("plotting")(drawn.lookup_by_type(Figure)))
    except (ImportError, AttributeError):
        pass  # not in a notebook: the caller saves the figures
