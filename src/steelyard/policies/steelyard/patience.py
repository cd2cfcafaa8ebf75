"""When to take a saving: as soon as what was paid by waiting equals what a mistake would cost.

The ski-rental rule (Karlin, Manasse, Rudolph, Sleator 1988): to keep cores that are not needed costs their
core-seconds; to give them up costs what it takes to have them back. Waiting until the first has grown to
the second pays at most twice what one would have paid knowing the future. A need for the cores in between
starts the account again at zero.

Getting cores back costs a window's delay if they come in place, and a cold start of a replica otherwise: the
replica's own core-seconds and the cores that carry its load meanwhile.
"""

HOLD_S = 3.0
"""Seconds that cores are kept at least: what it takes to know the rate again."""
COLD_START_FACTOR = 4.0
"""Core-seconds charged for a second of cold start: the starting core, and the risk of going without."""
REGRET_S = 10.0
"""A saving that is taken back within this many seconds was a mistake."""
PRICE_MAX = 3.0


class Patience:
    """Foregone savings by service, in core-seconds, and what mistakes have taught about their price."""

    def __init__(self) -> None:
        self._accounts: dict[str, tuple[float, float]] = {}
        self._price: dict[str, float] = {}
        self._saved: dict[str, tuple[float, float]] = {}

    def look(self, service: str, *, cores: float, now_s: float) -> None:
        """Judge the last saving by the cores that the service has now; called at every decision."""
        saved_at_s, saved_to = self._saved.get(service, (now_s, cores))
        if cores > saved_to + 1e-9:
            self._price[service] = min(PRICE_MAX, 1.5 * self._price.get(service, 1.0))
            del self._saved[service]
        elif now_s - saved_at_s >= REGRET_S:
            self._price.pop(service, None)
            del self._saved[service]

    def may_save(
        self, service: str, *, cores: float, replicas: int, cold_start_s: float, now_s: float
    ) -> bool:
        """Whether to give up `cores` and `replicas` now; called at every decision that would save."""
        foregone, since_s = self._accounts.get(service, (0.0, now_s))
        foregone += cores * (now_s - since_s)
        self._accounts[service] = (foregone, now_s)
        cost = cores * HOLD_S + replicas * cold_start_s * COLD_START_FACTOR
        return foregone >= cost * self._price.get(service, 1.0) - 1e-9

    def saved(self, service: str, *, cores: float, now_s: float) -> None:
        """The service goes down to `cores`."""
        self._saved[service] = (now_s, cores)

    def forget(self, service: str) -> None:
        """What the service has is needed, or has been given up."""
        self._accounts.pop(service, None)
