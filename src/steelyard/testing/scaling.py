"""For tests of autoscalers: a stage of known service time, and a meter that shows what the test says."""

from steelyard.core.types import Variant
from steelyard.policies.meters import Load, StageMeter
from steelyard.policies.scaled import Group, Seen


def group(time_s: float = 0.1, *, rows: int = 1, cores: int = 1, cores_max: int = 8) -> Group:
    """A stage whose batches take `time_s` a row on one core, and the c-th part of it on c cores."""
    variant = Variant("small", batch_rows_max=max(8, rows), cores_max=cores_max)
    return Group("read", variant, 1, rows, cores, lambda b, c: time_s * b / c)


class ShownMeter(StageMeter):
    """Means as set: `rows` and `busy` over any time, `by_window` rows for one of so many seconds."""

    def __init__(self, *, rows: float = 0.0, busy: float = 0.0) -> None:
        super().__init__("read", 60.0)
        self.rows, self.busy = rows, busy
        self.by_window: dict[float, float] = {}
        self.blind = False

    def mean(self, seconds: float, *, now_s: float) -> Load | None:
        """What was set; None when blind."""
        del now_s
        return None if self.blind else Load(self.by_window.get(seconds, self.rows), self.busy)

    def seen(self, replicas: int, *, ready: int | None = None, cores: int = 1) -> Seen:
        """A stage of `replicas` with these means, all of them ready unless said otherwise."""
        return Seen(replicas, replicas if ready is None else ready, cores, self)
