"""The plot: speed over the size of a file."""

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402


COLORS = {"discard": "#999999", "bare": "#56b4e9", "ours": "#d55e00", "usual": "#009e73"}
LABELS = {
    "discard": "the body read and discarded",
    "bare": "bare pipeline, no Kinto",
    "ours": "kinto-attachment",
    "usual": "the usual way, request.POST",
}


def draw(path, sizes, outcomes):
    """Draw the median speed, with its quartiles, of each kind.

    :param sizes: ``{title of a scenario: bytes}``.
    """
    points = [outcome for outcome in outcomes if outcome.scenario in sizes]
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for kind, label in LABELS.items():
        measured = [outcome.figures[kind] for outcome in points]
        axes.plot(
            [sizes[outcome.scenario] for outcome in points],
            [figure.median for figure in measured],
            marker="o",
            color=COLORS[kind],
            label=label,
        )
        axes.fill_between(
            [sizes[outcome.scenario] for outcome in points],
            [figure.spread[0] for figure in measured],
            [figure.spread[1] for figure in measured],
            color=COLORS[kind],
            alpha=0.2,
        )
    axes.set(xscale="log", yscale="log", xlabel="size of the file", ylabel="MB/s")
    axes.set_xticks(
        [sizes[outcome.scenario] for outcome in points],
        [outcome.scenario.removeprefix("size ") for outcome in points],
    )
    axes.set_title("One client, granian, local files, memory backend, fsync = false")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
