"""Figures: from tidy frames and tensors to matplotlib Axes, in one style.

Figures are drawn with `INK` on `PAPER`, as vector graphics. The book swaps exactly these two colours for
its dark mode, so anything else that is drawn must read on both backgrounds. Lines take the colours
of Okabe and Ito, safe for colour-blind readers, and differ in style too.
"""

from ..records import FAINT, INK, PALETTE, PAPER
from .curves import learning_curves, name_line, plot_benchmark, winner_map
from .diagrams import autograd_graph, three_ideas, vae_diagram
from .pictures import image_rows, latent_map
from .style import LINES, use_style

__all__ = [
    "FAINT",
    "INK",
    "LINES",
    "PALETTE",
    "PAPER",
    "autograd_graph",
    "image_rows",
    "latent_map",
    "learning_curves",
    "name_line",
    "plot_benchmark",
    "three_ideas",
    "use_style",
    "vae_diagram",
    "winner_map",
]
