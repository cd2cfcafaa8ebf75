"""When to take a saving: as soon as what was paid by waiting equals what a mistake would cost.

The ski-rental rule (Karlin, Manasse, Rudolph, Sleator 1988): to keep cores that are not needed costs their
core-seconds; to give them up costs what it takes to have them back. Waiting until the first has grown to
the second pays at most twice what one would have paid knowing the future. A need for the cores in between
starts the account again at zero.

Getting cores back costs a window's delay if they come in place, and a cold start of a replica otherwise: the
replica's own core-seconds and the cores that carry its load meanwhile.
"""

HOLD_S = 3.0
"""Seconds that cores are kept at least: two steps of the rate's average."""
COLD_START_FACTOR = 4.0
"""Core-seconds charged for a second of cold start: the starting core, and the risk of going without."""


class Patience:
    """Foregone savings by service, in core-seconds."""

    def __init__(self) -> None:
        self._accounts: dict[str, tuple[float, float]] = {}

    def may_save(
        self, service: str, *, cores: float, replicas: int, cold_start_s: float, now_s: float
    ) -> bool:
        """Whether to give up `cores` and `replicas` now; called at every decision that would save."""
        foregone, since_s = self._accounts.get(service, (0.0, now_s))
        foregone += cores * (now_s - since_s)
        self._accounts[service] = (foregone, now_s)
        cost = cores * HOLD_S + replicas * cold_start_s * COLD_START_FACTOR
        return foregone >= cost - 1e-9

    def forget(self, service: str) -> None:
        """What the service has is needed, or has been given up."""
        self._accounts.pop(service, None)
