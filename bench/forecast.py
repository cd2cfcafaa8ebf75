"""How well each predictor foresees the largest second to come, on the Twitter days.

Every so many seconds of the series each predictor is asked for the maximum of the next 3, 6 and 10 s, and
is scored by pinball loss and coverage at quantiles 0.5, 0.9 and 0.99, beside persistence (the maximum of as
many past seconds). `maximum`, `ewma` and `quantile` see the 120 s of a snapshot, `seasonal` the day before.
All are scored at the same origins, from the second day on. The series has beats of minutes and of hours:
origins are a prime number of seconds apart, or they would all fall on the same seconds of them. Missing
seconds (zeros) are interpolated for the history; an origin whose future holds one is left out, so that
nothing made up is scored.

What each is worth to the default policy, as cost and violations: `forecast_cost`.

    python bench/forecast.py [TRACE] [--every 307] [--surges 4]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _record
import forecast_cost
import numpy as np
from forecast_cost import COLD_START_S, Forecaster
from numpy.typing import NDArray
from surges import TRACE, counts_of, filled

from steelyard.forecast.predictors import Ewma, Predictor, QuantileOfMaximum, Seasonal
from steelyard.forecast.scores import HISTORY_S, Backtest, backtest, persistence_of, score

HORIZONS_S = (3, 6, 10)
QUANTILES = (0.5, 0.9, 0.99)
DAY_S = 86_400
LEVEL_S = 10


class Entry(NamedTuple):
    """A predictor under test; `quantile` if it predicts one, else it is scored at all of them."""

    name: str
    predictor: Predictor
    history_s: int
    quantile: float | None = None


def entries(horizon_s: int) -> Iterator[Entry]:
    yield Entry("maximum (persistence)", persistence_of(horizon_s), HISTORY_S)
    yield Entry("ewma", Ewma(), HISTORY_S)
    seasonal = Seasonal(DAY_S, horizon_s=horizon_s, level_s=LEVEL_S)
    yield Entry("seasonal", seasonal, seasonal.memory_s)
    for quantile in QUANTILES:
        yield Entry("quantile", QuantileOfMaximum(horizon_s, quantile=quantile), HISTORY_S, quantile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("trace", type=Path, nargs="?", default=TRACE)
    parser.add_argument("--every", type=int, default=307, help="seconds between two origins; a prime")
    parser.add_argument("--surges", type=int, default=4, help="that the default policy is simulated on")
    arguments = parser.parse_args()
    counts = counts_of(arguments.trace)
    rows = [row for horizon_s in HORIZONS_S for row in scored(counts, horizon_s, arguments.every)]
    show(rows)
    costs = forecast_cost.costs(arguments.trace, list(forecasters()), surge_count=arguments.surges)
    forecast_cost.show(costs)
    _record.write(
        "forecast",
        {
            "trace": arguments.trace.name,
            "seconds": len(counts),
            "missing_seconds": int((counts <= 0).sum()),
            "mean_rps": round(float(counts[counts > 0].mean()), 2),
            "every_s": arguments.every,
            "scores": rows,
            "surges": arguments.surges,
            "costs": costs,
        },
        seed=1,
    )


def forecasters() -> Iterator[Forecaster]:
    """What the policy is tried with: every predictor for a cold start, `quantile` at 0.9."""
    for entry in entries(COLD_START_S):
        if entry.quantile in (None, 0.9):
            yield Forecaster(entry.name, entry.predictor, entry.history_s)


def scored(counts: NDArray[np.int64], horizon_s: int, every_s: int) -> Iterator[dict[str, Any]]:
    """One line a predictor and quantile."""
    series = filled(counts).tolist()
    first_s = DAY_S + LEVEL_S
    known = futures_known(counts, horizon_s)[first_s::every_s]

    def tested(entry: Entry) -> Backtest:
        test = backtest(
            entry.predictor,
            series,
            horizon_s=horizon_s,
            history_s=entry.history_s,
            every_s=every_s,
            from_s=first_s,
        )
        return Backtest(test.predicted[known], test.actual[known])

    bar: Backtest | None = None
    for entry in entries(horizon_s):
        test = tested(entry)
        bar = test if bar is None else bar
        for quantile in QUANTILES if entry.quantile is None else (entry.quantile,):
            result = score(test, bar, quantile)
            yield {
                "predictor": entry.name,
                "horizon_s": horizon_s,
                "quantile": quantile,
                "origins": len(test.actual),
                "pinball_rps": round(result.pinball, 4),
                "coverage": round(result.coverage, 4),
                "skill": round(result.skill, 4),
            }


def futures_known(counts: NDArray[np.int64], horizon_s: int) -> NDArray[np.bool_]:
    """By origin: whether each of the next seconds was sampled; shape (seconds - horizon + 1,)."""
    missing = np.concatenate([[0], np.cumsum(counts <= 0)])
    return np.asarray(missing[horizon_s:] == missing[:-horizon_s])


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'predictor':<22} {'horizon':>7} {'quantile':>8} {'pinball':>8} {'coverage':>8} {'skill':>7}")
    for row in sorted(rows, key=lambda r: (r["horizon_s"], r["quantile"], r["pinball_rps"])):
        print(
            f"{row['predictor']:<22} {row['horizon_s']:>5} s {row['quantile']:>9} {row['pinball_rps']:>8.3f} "
            f"{row['coverage']:>8.3f} {row['skill']:>7.1%}"
        )


if __name__ == "__main__":
    main()
