"""The one knob: what it buys that a share of the requests may miss the SLO.

Where requests may be lost, cores are not owed to all of them, and those that are served may use the SLO up:
- *load*: so large a share of what arrives is given no cores; the data plane sheds what cannot be in time;
- *slack*: more of what those who wait have left is reckoned with;
- *queue*: more rows stand waiting, which fills batches, and what differs is corrected sooner;
- *lag*: rows that will be served before more cores could take effect ask for none, over longer spans;
- *batches*: serving may take more of the latency, so that they may be larger where that is cheaper, and where
  that can save cores (`layout`) they are held until they are full, for as long as rows may wait (ADR 4);
- *cores* that are not needed are given up sooner, replicas that are needed are started sooner, and fewer are
  kept for growth that has not come.

All but the first are spaced by one number, the *ease*: a power of the share, since how many violations a
setting makes depends on the traffic (docs/results.md). It is 1 at the default, where nothing is held.
"""

from typing import NamedTuple

VIOLATION_TARGET = 0.001
EASE_POWER = 0.15
SLACK_SHARE = 0.6
LAGS = 2.2
QUEUE_SHARE = 0.5
QUEUE_POWER = 0.6
SERVICE_SHARE = 0.65
SERVICE_SHARE_MORE = 0.1
CORRECT_WAITS = 2.0
HOLD_SHARE = 1.4
GROWTH = 4.0
GROWTH_POWER = 0.2


class Knob(NamedTuple):
    """One setting.

    Attributes:
        carried: share of what arrives that cores are given for: all of it at the default.
        slack_share: of the slack of those who wait that is reckoned with.
        queue_share: of the rows that may wait, those that stand waiting when all goes as planned.
        correct_waits: times the wait within which a queue that differs is corrected.
        lags: times the lag of a resize for which what waits asks for no cores; 0 at the default.
        service_share: of the latency that may be spent on serving.
        hold_share: of the time to wait for which a batch may be held until it is full; 0 holds nothing.
        patience: with cores that are not needed and replicas that are, over the default's; at most 1.
        growth: of what arrives, that replicas are kept for (`reserve`).
    """

    carried: float
    slack_share: float
    queue_share: float
    correct_waits: float
    lags: float
    service_share: float
    hold_share: float
    patience: float
    growth: float


def knob_at(violation_target: float) -> Knob:
    """The setting for a share of requests, in (0, 1), that may miss the SLO."""
    ease = (violation_target / VIOLATION_TARGET) ** EASE_POWER
    looser = min(1.0, max(0.0, ease - 1.0))
    return Knob(
        carried=1.0 - max(0.0, violation_target - VIOLATION_TARGET),
        slack_share=SLACK_SHARE * ease**2,
        queue_share=QUEUE_SHARE * ease**QUEUE_POWER,
        correct_waits=CORRECT_WAITS / max(1.0, ease),
        lags=LAGS * looser,
        service_share=SERVICE_SHARE + SERVICE_SHARE_MORE * looser,
        hold_share=HOLD_SHARE * looser,
        patience=min(1.0, ease**-2),
        growth=GROWTH * min(1.0, ease**-GROWTH_POWER),
    )


AS_IT_COMES = knob_at(VIOLATION_TARGET)
