"""The search of a run on the page: history, curves, slices and importance of its trials.

What is shown is worked out by ``optuna.visualization`` on a study made of the trials that the
product tells, and drawn again as figures of the page, which follow its theme and name each trial.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from albef.report import figures
from albef.report.content import Search, Trial
from albef.report.figures import Chart, Dot, Line

if TYPE_CHECKING:
    import optuna

_CURVES = 60
"""Most curves of trials in one figure; the best ones."""


def search_words(search: Search) -> Iterator[str]:
    """What the choice rests on, sentence by sentence."""
    told: Mapping[str, Any] = search.evidence
    if not told:
        return
    counts = told["trials"]
    words = {"complete": "complete", "pruned": "stopped early", "fail": "failed"}
    yield f"{', '.join(f'{counts[key]} {word}' for key, word in words.items() if counts[key])}."
    metric, value, start = told["metric"], told["value"], told["start"]
    if start is None:
        yield f"The best reached {metric} {value:.2f}; the one at the start came to no result."
    elif told["chosen"]["start"]:
        yield f"The start wins with {metric} {value:.2f}: no trial was better."
    else:
        than = f"{told['gain']:+.2f} against the start's {start:.2f}"
        yield f"It reached {metric} {value:.2f}, {than}."
    if len(told["best"]) > 1:
        yield f"The best {len(told['best'])} lie within {told['spread']:.2f} of each other."


def trial_charts(search: Search) -> Iterator[Chart]:
    """History, curves by epoch, and a slice for each range; as far as trials have values."""
    complete = [trial for trial in search.trials if trial.value is not None]
    if not complete:
        return
    study = _study(search)
    yield _history(search, study)
    if any(len(trial.values) > 1 for trial in search.trials):
        yield _curves(search, study)
    yield from _slices(search, complete, study)


def importance_bars(search: Search) -> list[tuple[str, float, Markup]]:
    """Each range with its share in how far the scores differ; none where that means nothing."""
    values = {trial.value for trial in search.trials if trial.value is not None}
    if len(search.choice) < 2 or len(values) < 3:
        return []
    with _drawn("plot_param_importances", _study(search)) as [axes]:
        names = [label.get_text() for label in axes.get_yticklabels()]
        shares = [float(patch.get_width()) for patch in axes.patches]
    return [
        (name, share, figures.bar(share, 1.0, (), name=f"importance of {name}: {share:.0%}"))
        for name, share in reversed(list(zip(names, shares, strict=True)))
        if math.isfinite(share)
    ]


def _history(search: Search, study: "optuna.Study") -> Chart:
    with _drawn("plot_optimization_history", study) as [axes]:
        points = [(float(x), float(y)) for x, y in axes.collections[0].get_offsets()]
        best = [(float(x) + 1, float(y)) for x, y in axes.lines[0].get_xydata()]
    dots = [_dot(search.trials[round(x)], x + 1, y) for x, y in points]
    svg = figures.scatter(
        dots,
        log_x=False,
        x_label="trial",
        name="score of each trial, and the best so far",
        line=best,
    )
    return Chart("Score by trial", "", (*_legend(dots), ("best so far", "c0")), svg)


def _curves(search: Search, study: "optuna.Study") -> Chart:
    with _drawn("plot_intermediate_values", study) as [axes]:
        drawn = {
            int(line.get_label().removeprefix("Trial")): line.get_xydata() for line in axes.lines
        }
    order = sorted(drawn, key=lambda n: (search.trials[n].value or -math.inf, -n))[-_CURVES:]
    lines = []
    for number in sorted(order, key=lambda n: (search.trials[n].chosen, search.trials[n].start)):
        trial = search.trials[number]
        colour = 3 if trial.chosen else 2 if trial.start else 0
        points = [(float(x), float(y)) for x, y in drawn[number]]
        lines.append(Line(f"trial {number + 1}", points, colour, dashed=trial.value is None))
    legend = [("chosen", "c3"), ("start", "c2"), ("others", "c0"), ("stopped early", "c0 dashed")]
    held = {f"c{line.colour}" + " dashed" * line.dashed for line in lines}
    shown = tuple((label, look) for label, look in legend if look in held)
    aside = f"the best {len(order)}" if len(order) < len(drawn) else ""
    return Chart(
        "Score by epoch", aside, shown, figures.lines(lines, x_label="epoch", name="score by epoch")
    )


def _slices(search: Search, complete: list[Trial], study: "optuna.Study") -> Iterator[Chart]:
    """Complete trials as Optuna slices them; hollow, those stopped early at their last value."""
    with _drawn("plot_slice", study) as drawn:
        points = {
            axes.get_xlabel(): [(float(x), float(y)) for x, y in axes.collections[0].get_offsets()]
            for axes in drawn
            if axes.get_xlabel() in search.choice
        }
    for name, placed in points.items():
        dots = [_dot(t, x, y, name) for t, (x, y) in zip(complete, placed, strict=True)]
        dots += [
            _dot(trial, trial.params[name], trial.values[-1], name)
            for trial in search.trials
            if trial.value is None and trial.values and not trial.error
        ]
        log_x = search.scales.get(name, False) and all(dot.x > 0 for dot in dots)
        svg = figures.scatter(dots, log_x=log_x, x_label=name, name=f"score of trials by {name}")
        yield Chart(f"Score by {name}", "", _legend(dots), svg)


def _dot(trial: Trial, x: float, y: float, name: str = "") -> Dot:
    looks = {"chosen": trial.chosen, "start": trial.start, "stopped": trial.value is None}
    at = f"{name} {figures.show(x)}, " if name else ""
    label = f"trial {trial.number + 1}: {at}score {figures.show(y)}"
    return Dot(x, y, label, " ".join(look for look, holds in looks.items() if holds))


def _legend(dots: list[Dot]) -> tuple[tuple[str, str], ...]:
    words = {"chosen": "chosen", "start": "start", "stopped": "stopped early"}
    looks = {look for dot in dots for look in dot.look.split()}
    return tuple((label, f"dotkey {look}") for look, label in words.items() if look in looks)


@contextlib.contextmanager
def _drawn(plot: str, study: "optuna.Study") -> Iterator[list[Any]]:
    """The axes of one of Optuna's figures, whose style stays inside."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import optuna

    with mpl.rc_context({"backend": "Agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; one trial leaves no room on an axis
        make: Callable[[optuna.Study], Any] = getattr(optuna.visualization.matplotlib, plot)
        made = make(study)
        axes = list(getattr(made, "flat", [made]))
        try:
            yield axes
        finally:
            plt.close(axes[0].figure)


def _study(search: Search) -> "optuna.Study":
    """A study in memory of the trials, numbered as they are."""
    import optuna
    from optuna.distributions import FloatDistribution
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    bounds = {}
    for name in search.choice:
        tried = [trial.params[name] for trial in search.trials]
        log = search.scales.get(name, False) and min(tried) > 0
        bounds[name] = FloatDistribution(min(tried), max(tried), log=log)
    for trial in search.trials:
        state = TrialState.COMPLETE if trial.value is not None else TrialState.PRUNED
        study.add_trial(
            create_trial(
                state=TrialState.FAIL if trial.error else state,
                value=trial.value,
                params=dict(trial.params),
                distributions=bounds,
                intermediate_values=dict(enumerate(trial.values, 1)),
            )
        )
    return study
